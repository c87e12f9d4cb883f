//! The log lines that wait to be written. The queue is bounded; lines that do not fit are counted.

use std::collections::VecDeque;

use tracing::Level;

/// The most lines that wait.
pub(super) const MOST_LINES: usize = 4096;
/// The most bytes that wait.
pub(super) const MOST_BYTES: usize = 1 << 20;
/// The longest line. A pipe takes so many bytes at once or none at all (`PIPE_BUF`, `pipe(7)`), so
/// that lines of two processes never mix.
pub(super) const LONGEST: usize = 4096;

/// What a line that was cut ends with.
const CUT: &str = "…\n";

/// A line, with its newline.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) level: Level,
    /// Empty where the lines after the last one were lost, and there is nothing else to say.
    pub(super) text: String,
    /// How many lines before it were lost because the queue was full.
    pub(super) lost: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    lines: VecDeque<Line>,
    bytes: usize,
    lost: u64,
}

impl Queue {
    /// Takes a line, if there is room for it.
    pub(super) fn push(&mut self, level: Level, text: &str) {
        let text = cut(text);
        let bytes = self.bytes + text.len();
        if self.lines.len() == MOST_LINES || bytes > MOST_BYTES {
            self.lost += 1;
            return;
        }
        self.bytes = bytes;
        self.lines.push_back(Line { level, text, lost: std::mem::take(&mut self.lost) });
    }

    /// The next line. Lines that were lost after the last one are told at the end.
    pub(super) fn pop(&mut self) -> Option<Line> {
        let Some(line) = self.lines.pop_front() else {
            let lost = std::mem::take(&mut self.lost);
            return (lost > 0).then(|| Line { level: Level::WARN, text: String::new(), lost });
        };
        self.bytes -= line.text.len();
        if self.lines.is_empty() {
            // A flood may have made it large.
            self.lines = VecDeque::new();
        }
        Some(line)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.lost == 0
    }
}

fn cut(text: &str) -> String {
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(LONGEST - CUT.len());
    let kept = text.get(..end).unwrap_or_default();
    format!("{kept}{CUT}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_as_they_went_in() {
        let mut queue = Queue::default();
        queue.push(Level::INFO, "one\n");
        queue.push(Level::WARN, "two\n");
        assert_eq!(queue.pop().unwrap().text, "one\n");
        let two = queue.pop().unwrap();
        assert_eq!((two.level, two.text.as_str(), two.lost), (Level::WARN, "two\n", 0));
        assert!(queue.pop().is_none() && queue.is_empty());
    }

    #[test]
    fn lines_that_do_not_fit_are_counted_and_told_by_the_next_one() {
        let mut queue = Queue::default();
        for _ in 0..MOST_LINES + 5 {
            queue.push(Level::INFO, "x\n");
        }
        queue.pop().unwrap();
        queue.push(Level::INFO, "after\n");
        let mut last = None;
        while let Some(line) = queue.pop() {
            assert_eq!(line.lost, if line.text == "after\n" { 5 } else { 0 });
            last = Some(line);
        }
        assert_eq!(last.unwrap().text, "after\n");
        assert!(queue.is_empty());
    }

    #[test]
    fn the_loss_is_told_though_no_line_follows() {
        let mut queue = Queue::default();
        let long = "x".repeat(LONGEST);
        for _ in 0..MOST_BYTES / LONGEST + 3 {
            queue.push(Level::INFO, &long);
        }
        for _ in 0..MOST_BYTES / LONGEST {
            assert_eq!(queue.pop().unwrap().lost, 0);
        }
        assert!(!queue.is_empty());
        assert_eq!(queue.pop(), Some(Line { level: Level::WARN, text: String::new(), lost: 3 }));
        assert!(queue.is_empty() && queue.pop().is_none());
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let mut queue = Queue::default();
        queue.push(Level::INFO, &"ü".repeat(LONGEST));
        let text = queue.pop().unwrap().text;
        assert!(text.len() <= LONGEST && text.len() > LONGEST - 8 && text.ends_with("ü…\n"));
    }
}
