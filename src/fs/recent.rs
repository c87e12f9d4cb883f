//! The generation that was asked for last, at hand for the next request: it is nearly always the same
//! one, and taking it out of its slot costs two allocations, a checksum and two wipings.

use std::sync::{Arc, Mutex, PoisonError};

use super::generations::{Generation, TokenState};

/// See the module.
#[derive(Default)]
pub(super) struct Recent(Mutex<Option<Arc<Generation>>>);

impl Recent {
    /// A generation, unless it is not kept any more. It is forgotten with its slot, or with the next
    /// one that is asked for.
    pub(super) fn get(&self, state: &TokenState, number: u64) -> Option<Arc<Generation>> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at_hand = last.take().filter(|last| last.token.generation == number);
        let kept = at_hand.filter(|_| state.keeps(number));
        *last = kept.or_else(|| state.generation(number).map(Arc::new));
        last.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fs::generations::SLOTS;
    use crate::fs::generations::tests::token;
    use crate::refresh::store::Store;
    use crate::secret::Secret;
    use crate::time::Now;
    use crate::token::{Life, Token};

    fn publish(state: &TokenState) -> String {
        let (generation, life) = (state.reserve(), Duration::from_mins(1));
        let text = format!("ghs_{generation}");
        let secret = Secret::new(text.clone().into_bytes()).unwrap();
        let (issued, life) = (Now::default(), Life::Known(life));
        let token = Token { secret, generation, source: "env", issued, life };
        state.publish(&token.usable(&issued, Duration::ZERO).unwrap(), &issued);
        text
    }

    #[test]
    fn each_generation_is_itself_until_its_slot_is_needed() {
        let state = token(vec!["env"], vec![0]);
        let recent = Recent::default();
        let text = |number| {
            let generation = recent.get(&state, number)?;
            Some(generation.token.secret.expose_str().to_owned())
        };
        let (first, second) = (publish(&state), publish(&state));
        for _ in 0..2 {
            assert_eq!(text(2).as_ref(), Some(&second));
            assert_eq!(text(1).as_ref(), Some(&first));
            assert_eq!(text(1).as_ref(), Some(&first));
            assert_eq!(text(3), None);
        }
        assert_eq!(text(1).as_ref(), Some(&first));
        for _ in 0..SLOTS {
            publish(&state);
        }
        assert_eq!(text(1), None, "though it was the last one");
    }
}
