//! Sleeping until a boot time, and noticing that the wall clock was set.
#![expect(unsafe_code, reason = "tokio registers a file descriptor through an unsafe function")]

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::source::BoxFuture;
use crate::time::Clock;

/// What the engine waits with.
pub trait Timer: Send + Sync + 'static {
    /// Completes when the boot clock has reached `boot`; suspend counts.
    fn until(&self, boot: Duration) -> BoxFuture<'_, ()>;

    /// Completes when the wall clock is set after this call. It may complete without cause.
    fn wall_set(&self) -> BoxFuture<'_, ()>;
}

/// The kernel's timers (`timerfd_create(2)`): nothing wakes up before its time.
pub struct SystemTimer {
    clock: Arc<dyn Clock>,
}

impl SystemTimer {
    /// A timer that shares the clock of whoever computes the times.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }
}

impl Timer for SystemTimer {
    fn until(&self, boot: Duration) -> BoxFuture<'_, ()> {
        let timer = one_shot(ClockId::CLOCK_BOOTTIME, boot, TimerSetTimeFlags::TFD_TIMER_ABSTIME);
        Box::pin(async move {
            if let Some(timer) = timer
                && timer.readable().await.is_ok()
            {
                return;
            }
            // Out of descriptors. tokio's clock stands still in suspend, so look again often enough.
            loop {
                let left = boot.saturating_sub(self.clock.now().boot);
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(FALL_BACK_LOOK)).await;
            }
        })
    }

    fn wall_set(&self) -> BoxFuture<'_, ()> {
        // Made here and not at the first poll, so that nothing that happens in between is missed.
        let timer = one_shot(
            ClockId::CLOCK_REALTIME,
            FAR_AWAY,
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET,
        );
        Box::pin(async move {
            if let Some(timer) = timer
                && timer.readable().await.is_ok()
            {
                return;
            }
            tokio::time::sleep(FALL_BACK_LOOK).await;
        })
    }
}

/// How often to look at the clocks where the kernel has no timer left for us.
const FALL_BACK_LOOK: Duration = Duration::from_secs(1);

/// The year 2242: a wall time that no clock reaches, on any kernel.
const FAR_AWAY: Duration = Duration::from_secs(1 << 33);

/// A timerfd that is used once; its readiness is all that is asked of it.
struct OneShot(TimerFd);

impl AsRawFd for OneShot {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

fn one_shot(clock: ClockId, at: Duration, flags: TimerSetTimeFlags) -> Option<AsyncFd<OneShot>> {
    let timer = TimerFd::new(clock, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC).ok()?;
    // A zero would disarm the timer; a nanosecond after boot is as much in the past.
    let at = TimeSpec::from_duration(at.clamp(Duration::from_nanos(1), FAR_AWAY));
    timer.set(Expiration::OneShot(at), flags).ok()?;
    // SAFETY: `OneShot` owns its descriptor, always gives the same one, and closes it only when it is
    // dropped, which `AsyncFd` does after it has deregistered it.
    unsafe { AsyncFd::register_with_interest(OneShot(timer), Interest::READABLE) }.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SystemClock;

    #[tokio::test]
    async fn the_kernels_timer_fires_at_its_boot_time_and_at_once_for_the_past() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let timer = SystemTimer::new(Arc::clone(&clock));
        let limit = Duration::from_secs(10);
        for past in [Duration::ZERO, clock.now().boot] {
            tokio::time::timeout(limit, timer.until(past)).await.expect("the past has come");
        }
        let at = clock.now().boot + Duration::from_millis(30);
        tokio::time::timeout(limit, timer.until(at)).await.expect("it fires");
        assert!(clock.now().boot >= at);
    }

    #[tokio::test]
    async fn a_clock_that_nobody_sets_wakes_nobody() {
        let timer = SystemTimer::new(Arc::new(SystemClock));
        let set = tokio::time::timeout(Duration::from_millis(50), timer.wall_set());
        assert!(set.await.is_err());
    }
}
