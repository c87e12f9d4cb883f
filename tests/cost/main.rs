//! What an open costs, beside what it costs elsewhere; what git waits for; what a start takes; and what
//! the daemon costs while nobody asks.
//!
//! The gate runs everything once and judges no figure. `scripts/evidence bench` and
//! `scripts/evidence idle` run it long, with the release binary, and judge.
//! needs: root, fuse, cc, libfuse3, git, curl

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;
#[path = "../sources/tls.rs"]
mod tls;

mod helpers;
mod idle;
mod picture;
mod readers;
mod report;
mod subjects;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use helpers::{Git, start_to_first_stat};
use report::{Figures, Machine, Reads, Times};
use subjects::{Cores, Place, Subjects};
use support::claim::assert_all;
use support::dir::TestDir;
use support::namespace::sandboxed;
use support::{millis, secs};

/// How long the benchmark is.
#[derive(Debug, Clone, Copy)]
struct Length {
    rounds: usize,
    block: Duration,
    fills: usize,
    starts: usize,
    limit: Duration,
}

const SHORT: Length = Length { rounds: 1, block: millis(10), fills: 1, starts: 1, limit: secs(30) };

const LONG: Length =
    Length { rounds: 30, block: millis(100), fills: 60, starts: 60, limit: secs(240) };

const READERS: [usize; 3] = [1, 4, 16];

/// Where a script wants its figures.
#[expect(clippy::disallowed_methods, reason = "how scripts/evidence asks for more")]
fn wanted(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

#[test]
fn an_open_costs_what_it_costs_in_c_and_a_helper_less_than_the_old_one() {
    let wanted = wanted("MOLECULE_BENCH_DIR");
    let length = if wanted.is_some() { LONG } else { SHORT };
    sandboxed(length.limit, move || {
        let cores = Cores::of_this_thread();
        let machine = Machine::this(cores.count());
        let open_read_close = open_read_close(length, &cores);
        cores.put(Place::AllCores, &[]);
        let mut figures = Figures {
            machine,
            rounds: length.rounds,
            block_ms: length.block.as_millis().try_into().unwrap(),
            claims: Vec::new(),
            open_read_close,
            git_credential_fill: git_credential_fill(length),
            exec_to_first_stat: exec_to_first_stat(length),
        };
        figures.claims = figures.claims();
        println!("{}", figures.table());
        assert_eq!(figures.open_read_close.len(), 5 * 2 * READERS.len());
        let picture = picture::draw(&figures);
        if let Some(directory) = wanted {
            let text = serde_json::to_string(&figures).unwrap();
            fs::write(directory.join("bench.json"), text).expect("the figures are kept");
            fs::write(directory.join("bench.svg"), picture).expect("the picture is kept");
            assert_all(&figures.claims);
        }
    });
}

/// Blocks of each subject in turn, over and over: what disturbs one disturbs its neighbours, too.
fn open_read_close(length: Length, cores: &Cores) -> Vec<Reads> {
    let dir = TestDir::new();
    let subjects = Subjects::start(&dir);
    let servers: Vec<_> = subjects.all.iter().flat_map(|s| &s.servers).copied().collect();
    let ways =
        [Place::OneCore, Place::AllCores].into_iter().flat_map(|place| READERS.map(|n| (place, n)));
    let ways: Vec<_> = ways.collect();
    let mut blocks = vec![Vec::new(); ways.len() * subjects.all.len()];
    for _ in 0..length.rounds {
        let mut blocks = blocks.iter_mut();
        for &(place, readers) in &ways {
            cores.put(place, &servers);
            for subject in &subjects.all {
                let cpu = || support::processes::cpu_time(&subject.servers);
                let block =
                    readers::measure(&subject.file, &subjects.content, readers, length.block, cpu);
                blocks.next().unwrap().push(block);
            }
        }
    }
    let measured = ways.iter().flat_map(|way| subjects.all.iter().map(move |s| (way, s.name)));
    measured
        .zip(&blocks)
        .map(|((&(place, readers), name), blocks)| Reads::of(name, place, readers, blocks))
        .collect()
}

fn git_credential_fill(length: Length) -> Vec<Times> {
    let git = Git::new();
    let mut times = vec![Vec::new(); git.helpers.len()];
    for _ in 0..length.fills {
        for (helper, times) in git.helpers.iter().zip(&mut times) {
            times.push(git.fill(helper));
        }
    }
    git.helpers.iter().zip(&times).map(|(helper, times)| Times::of(helper.name, times)).collect()
}

fn exec_to_first_stat(length: Length) -> Times {
    let dir = TestDir::new();
    let times: Vec<_> = (0..length.starts).map(|_| start_to_first_stat(&dir)).collect();
    Times::of("exec to the first answered stat", &times)
}
