//! Where the demo shows itself: a screen that is drawn anew five times a second, or plain lines.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::time::Duration;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::style::{Attribute, Color, Print, SetAttribute, SetForegroundColor};
use crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, size};
use crossterm::{QueueableCommand, queue};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{FlushArg, LocalFlags, SetArg, Termios, tcflush, tcgetattr, tcsetattr};
use nix::unistd::{Pid, getppid, getsid};

use crate::cmd::demo::app;
use crate::cmd::demo::frame::{self, Line, Progress, Room, Tone};
use crate::cmd::demo::lane::Kind;
use crate::cmd::print;
use crate::config;

/// See the module.
pub(super) enum Output {
    Screen(Box<Screen>),
    Lines(Lines),
}

impl Output {
    pub(super) fn open(
        plain: bool,
        notes: Vec<String>,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        if plain {
            let mut text = format!(
                "molecule-tokenfs demo: tokens live {} s, for {} s\n\
                 mounted: the token is read from the mount at every use\n\
                 frozen:  the token was put into the environment at the start, as it is done today\n",
                progress.life.as_secs(),
                progress.end.as_secs(),
            );
            if progress.lanes.iter().any(|lane| lane.kind() == Kind::Repository) {
                let _ = writeln!(
                    text,
                    "repository: the token is for {} alone, minted when its file is opened, and is \
                     tried on {} too",
                    app::REPOSITORY,
                    app::OTHER
                );
            }
            for note in notes {
                text += &note;
                text.push('\n');
            }
            print(text.as_bytes())?;
            return Ok(Self::Lines(Lines { landmarks: Vec::new(), next: Duration::ZERO }));
        }
        Ok(Self::Screen(Box::new(Screen::enter(notes)?)))
    }

    /// Stops this process as Ctrl-Z does, with the terminal given back, and takes it again when somebody
    /// lets the process go on. Whether it was stopped: not where nobody could let it go on, since its parent
    /// is in another session.
    pub(super) fn stop(&mut self) -> anyhow::Result<bool> {
        let Self::Screen(screen) = self else { return Ok(false) };
        if getsid(Some(getppid())) != getsid(None) {
            return Ok(false);
        }
        screen.leave();
        kill(Pid::this(), Signal::SIGSTOP)?;
        screen.enter_again()?;
        Ok(true)
    }

    /// Shows how things stand.
    pub(super) fn draw(&mut self, progress: &Progress) -> anyhow::Result<()> {
        match self {
            Self::Screen(screen) => screen.draw(progress),
            Self::Lines(lines) => lines.draw(progress),
        }
    }
}

/// Whether standard output is a terminal that knows how to move its cursor.
pub(super) fn can_be_drawn() -> bool {
    let dumb = config::env("TERM").is_none_or(|term| term == "dumb");
    std::io::stdout().is_terminal() && !dumb
}

/// A line when something happened, and a few in each lifetime.
pub(super) struct Lines {
    landmarks: Vec<(u64, bool, bool)>,
    next: Duration,
}

impl Lines {
    fn draw(&mut self, progress: &Progress) -> anyhow::Result<()> {
        let landmarks = frame::landmarks(progress);
        if progress.elapsed < self.next && landmarks == self.landmarks {
            return Ok(());
        }
        self.next = progress.elapsed + (progress.life / 4).max(Duration::from_secs(1));
        self.landmarks = landmarks;
        print(format!("{}\n", frame::one_line(progress)).as_bytes())
    }
}

/// The terminal's other screen. Dropping it gives the terminal back as it was.
pub(super) struct Screen {
    before: Option<Termios>,
    notes: Vec<String>,
    colour: bool,
    blocks: bool,
}

impl Screen {
    fn enter(notes: Vec<String>) -> anyhow::Result<Self> {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(config::env);
        let locale = locale.unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let mut screen = Self {
            before: None,
            notes,
            colour: config::env("NO_COLOR").is_none(),
            blocks: locale.contains("utf-8") || locale.contains("utf8"),
        };
        screen.enter_again()?;
        Ok(screen)
    }

    fn enter_again(&mut self) -> anyhow::Result<()> {
        let stdin = std::io::stdin();
        // Keys neither show nor wait for a newline; Ctrl-C and Ctrl-Z stay signals.
        self.before = stdin.is_terminal().then(|| tcgetattr(stdin.as_fd()).ok()).flatten();
        if let Some(before) = &self.before {
            let mut quiet = before.clone();
            quiet.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON);
            tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &quiet)?;
        }
        let mut out = Vec::new();
        queue!(out, EnterAlternateScreen, Hide, Clear(ClearType::All))?;
        print(&out)
    }

    fn leave(&mut self) {
        let mut out = Vec::new();
        if queue!(out, Show, LeaveAlternateScreen).is_ok() {
            let _ = print(&out);
        }
        if let Some(before) = self.before.take() {
            let stdin = std::io::stdin();
            // What was typed meanwhile was for the demo, not for the shell.
            let _ = tcflush(stdin.as_fd(), FlushArg::TCIFLUSH);
            let _ = tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &before);
        }
    }

    fn draw(&mut self, progress: &Progress) -> anyhow::Result<()> {
        // Asked for each time: so a resize needs no signal.
        let (width, height) = size().unwrap_or((80, 24));
        // The last column stays free: behind it, clearing the rest of a line differs by terminal.
        let width = usize::from(width.saturating_sub(1));
        let room = Room { width, height: height.into(), blocks: self.blocks };
        let lines = frame::screen(progress, &self.notes, room);
        let mut out = Vec::new();
        for (row, line) in (0..height).zip(&lines) {
            queue!(out, MoveTo(0, row))?;
            self.line(&mut out, line)?;
            queue!(out, Clear(ClearType::UntilNewLine))?;
        }
        if lines.len() < usize::from(height) {
            queue!(out, Clear(ClearType::FromCursorDown))?;
        }
        print(&out)
    }

    fn line(&self, out: &mut Vec<u8>, line: &Line) -> anyhow::Result<()> {
        for (tone, text) in line {
            if self.colour {
                match tone {
                    Tone::Plain => {}
                    Tone::Title => drop(out.queue(SetAttribute(Attribute::Bold))?),
                    Tone::Good => drop(out.queue(SetForegroundColor(Color::Green))?),
                    Tone::Bad => drop(out.queue(SetForegroundColor(Color::Red))?),
                    Tone::Dim => drop(out.queue(SetAttribute(Attribute::Dim))?),
                }
            }
            queue!(out, Print(text))?;
            if self.colour {
                queue!(out, SetAttribute(Attribute::Reset))?;
            }
        }
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}
