//! The figures of the benchmark, and what is claimed of them.

use std::fs;

use serde::Serialize;

use crate::helpers;
use crate::readers::Block;
use crate::subjects::{BY_PATH, C_CACHED, C_DIRECT, LIVE, Place, TMPFS};
use crate::support::claim::Claim;

/// Where it was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub kernel: String,
    /// What else the machine did when it began: processes that ran or wanted to, on average over a
    /// minute.
    pub load_average: f64,
}

impl Machine {
    pub fn this(cores: usize) -> Self {
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        // What follows the numbers is the builder's own affair.
        let kernel = release.split(|c: char| !c.is_ascii_digit() && c != '.').next();
        Self {
            processor: model.map_or("unknown", |(_, model)| model.trim()).to_owned(),
            cores,
            kernel: kernel.unwrap_or_default().trim_end_matches('.').to_owned(),
            load_average: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        }
    }
}

/// What reading one subject cost, over all rounds. Times in microseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Reads {
    pub subject: &'static str,
    pub on_one_core: bool,
    pub readers: usize,
    /// In the best round.
    pub p50_us: f64,
    /// In half of the rounds it was no worse; so are the following.
    pub p50_typical_us: f64,
    pub p99_us: f64,
    pub reader_cpu_us: f64,
    pub server_cpu_us: f64,
    /// In the best round.
    pub a_second: f64,
}

impl Reads {
    pub fn of(subject: &'static str, place: Place, readers: usize, rounds: &[Block]) -> Self {
        let all = |what: fn(&Block) -> f64| sorted(rounds.iter().map(what));
        let typical = |what| round(middle(&all(what)));
        Self {
            subject,
            on_one_core: place == Place::OneCore,
            readers,
            p50_us: round(all(|block| block.p50)[0]),
            p50_typical_us: typical(|block| block.p50),
            p99_us: typical(|block| block.p99),
            reader_cpu_us: typical(|block| block.reader_cpu),
            server_cpu_us: typical(|block| block.server_cpu),
            a_second: all(|block| block.reads_per_second).last().unwrap().round(),
        }
    }
}

/// How long something took, in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Times {
    pub what: &'static str,
    pub runs: usize,
    pub p50_ms: f64,
    pub p90_ms: f64,
}

impl Times {
    pub fn of(what: &'static str, runs: &[std::time::Duration]) -> Self {
        let times = sorted(runs.iter().map(|time| time.as_secs_f64() * 1e3));
        let p90 = times[(times.len() - 1) * 9 / 10];
        Self { what, runs: runs.len(), p50_ms: round(middle(&times)), p90_ms: round(p90) }
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn middle(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

/// Two places are more than repeats from run to run.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// One run of the benchmark.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    pub machine: Machine,
    pub rounds: usize,
    pub block_ms: u64,
    pub claims: Vec<Claim>,
    pub open_read_close: Vec<Reads>,
    pub git_credential_fill: Vec<Times>,
    pub exec_to_first_stat: Times,
}

impl Figures {
    fn on_one_core(&self, subject: &str, readers: usize) -> &Reads {
        let wanted = |reads: &&Reads| {
            reads.on_one_core && reads.subject == subject && reads.readers == readers
        };
        self.open_read_close.iter().find(wanted).expect("it was measured")
    }

    /// What must hold of them.
    pub fn claims(&self) -> Vec<Claim> {
        let ratio = |ours: &str, other: &str, at_most| {
            let measured = self.on_one_core(ours, 1).p50_us / self.on_one_core(other, 1).p50_us;
            Claim::new(format!("p50 of {ours} ÷ {other}"), round(measured), at_most)
        };
        let crowd = |subject: &str| {
            let rate = |readers| self.on_one_core(subject, readers).a_second;
            let what = format!("{subject}: reads a second by one reader ÷ by sixteen");
            Claim::new(what, round(rate(1) / rate(16)), 1.0)
        };
        let fill = |name: &str| {
            let helper = self.git_credential_fill.iter().find(|times| times.what == name);
            helper.expect("it was measured").p50_ms
        };
        vec![
            ratio(BY_PATH, C_CACHED, 1.1),
            ratio(BY_PATH, C_DIRECT, 0.75),
            ratio(BY_PATH, TMPFS, 6.0),
            ratio(LIVE, C_DIRECT, 1.5),
            crowd(BY_PATH),
            crowd(LIVE),
            Claim::new(
                "git credential fill with our helper ÷ with the old one",
                round(fill(helpers::OURS) / fill(helpers::OLD)),
                0.5,
            ),
            Claim::new("exec to the first answered stat, ms", self.exec_to_first_stat.p50_ms, 10.0),
        ]
    }

    /// As text, for whoever waits.
    pub fn table(&self) -> String {
        let machine = &self.machine;
        let mut lines = vec![
            format!(
                "{}, {} cores, Linux {}, load average {}; {} rounds of {} ms",
                machine.processor,
                machine.cores,
                machine.kernel,
                machine.load_average,
                self.rounds,
                self.block_ms
            ),
            String::new(),
            format!(
                "{:<15} {:<5} {:>7} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9}",
                "open+read+close",
                "cores",
                "readers",
                "p50 µs",
                "typical",
                "p99",
                "reader µs",
                "server µs",
                "reads/s"
            ),
        ];
        lines.extend(self.open_read_close.iter().map(|reads| {
            format!(
                "{:<15} {:<5} {:>7} {:>8.2} {:>8.2} {:>8.2} {:>9.2} {:>9.2} {:>9.0}",
                reads.subject,
                if reads.on_one_core { "one" } else { "all" },
                reads.readers,
                reads.p50_us,
                reads.p50_typical_us,
                reads.p99_us,
                reads.reader_cpu_us,
                reads.server_cpu_us,
                reads.a_second
            )
        }));
        lines.push(format!(
            "\n{:<44} {:>5} {:>8} {:>8}",
            "git credential fill", "runs", "p50 ms", "p90"
        ));
        let times = self.git_credential_fill.iter().chain([&self.exec_to_first_stat]);
        lines.extend(times.map(|times| {
            let Times { what, runs, p50_ms, p90_ms } = times;
            format!("{what:<44} {runs:>5} {p50_ms:>8.2} {p90_ms:>8.2}")
        }));
        lines.push(String::new());
        lines.extend(self.claims.iter().map(|claim| {
            let verdict = if claim.holds { "holds" } else { "BROKEN" };
            format!("{verdict:<7} {}: {} (at most {})", claim.what, claim.measured, claim.at_most)
        }));
        lines.join("\n") + "\n"
    }
}
