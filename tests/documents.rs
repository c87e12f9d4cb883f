//! What the documents, scripts and comments say of the project's own files is so: each path that
//! they name is there, and the README lists all that a user can meet.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a variable asks for a table to be written")]

#[path = "documents/kernels.rs"]
mod kernels;
#[path = "documents/links.rs"]
mod links;
#[path = "documents/security.rs"]
mod security;
#[path = "documents/settings.rs"]
mod settings;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::CommandFactory as _;
use molecule_tokenfs::cli::Cli;
use molecule_tokenfs::error::ReadErrorKind;
use molecule_tokenfs::refresh::policy::windows::{self, Windows};
use molecule_tokenfs::view;
use serde_json::Value;

/// Folders of the project: a word that starts with one of these is a path in it.
const FOLDERS: &[&str] = &["src/", "tests/", "scripts/", "docs/", ".ci/", ".github/"];

/// Folders whose names begin with a dot and that hold texts.
const DOTTED: &[&str] = &[".ci", ".github"];

/// Tests of checkers: the paths in them are examples.
const INVENTIVE: &[&str] = &["documents.rs", "links.rs", "architecture.rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file of the project that speaks about others. [`INVENTIVE`] ones speak of inventions.
fn texts() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if DOTTED.contains(&name.as_str()) || !(name.starts_with('.') || name == "target") {
                    folders.push(path);
                }
            } else if !INVENTIVE.contains(&name.as_str()) && fs::read_to_string(&path).is_ok() {
                found.push(path);
            }
        }
    }
    found
}

/// The paths of the project that a text names. A pattern (`tests/*.rs`) counts up to its star.
fn paths(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    text.split(|c| !is_part(c))
        .map(|word| word.trim_start_matches("./").trim_end_matches('.'))
        .filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder)))
        .map(str::to_owned)
        .collect()
}

#[test]
fn each_path_that_a_text_names_exists() {
    let mut missing = Vec::new();
    for file in texts() {
        let text = fs::read_to_string(&file).unwrap();
        for path in paths(&text) {
            if !root().join(&path).exists() {
                missing.push(format!("{}: {path} does not exist", file.display()));
            }
        }
        if file.extension().is_some_and(|extension| extension == "md") {
            missing.extend(links::broken(&file));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn the_oldest_rust_and_the_version_are_the_same_everywhere() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let rust = env!("CARGO_PKG_RUST_VERSION");
    assert!(read("README.md").contains(&format!("Rust {rust} or newer")));
    assert!(read(".github/workflows/ci.yml").contains(&format!("rust: [\"{rust}\", stable]")));
    let heading = format!("\n## [{}] - ", env!("CARGO_PKG_VERSION"));
    assert!(read("docs/CHANGELOG.md").contains(&heading));
}

#[test]
fn contributing_says_what_each_test_target_is_for() {
    let text = fs::read_to_string(root().join("docs/CONTRIBUTING.md")).unwrap();
    let targets = in_first_cells(&text);
    for entry in fs::read_dir(root().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let is_target = path.extension().is_some() || path.join("main.rs").exists();
        assert!(!is_target || targets.contains(&name), "CONTRIBUTING.md does not list {name}");
    }
}

#[test]
fn the_picture_of_the_floors_names_every_module() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let (lib, picture) = (read("src/lib.rs"), read("docs/ARCHITECTURE.md"));
    let floors = lib.lines().filter_map(|line| line.strip_prefix("//! "));
    let floors = floors.filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    let mut modules = 0;
    for floor in floors {
        let mut words = floor.split_whitespace();
        let head = format!("<b>{} {}</b><br/>", words.next().unwrap(), words.next().unwrap());
        let shown = picture.split(&head).nth(1).and_then(|rest| rest.split("<br/>").next());
        modules += words.clone().filter(|word| *word != ">").count();
        // Steps are separated by `>` alone.
        let mapped = words.collect::<Vec<_>>().join(", ").replace(", >, ", " > ");
        assert_eq!(shown.unwrap_or_else(|| panic!("no {head}")), mapped, "{head}");
    }
    assert!(modules > 15);
}

/// The names in the first cells of the README's tables: `a`, `b` of the row "| `a`, `b` | …".
fn in_first_cells(readme: &str) -> Vec<String> {
    readme
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(|cell| cell.split(", ").map(|name| name.trim_matches('`').to_owned()))
        .collect()
}

#[test]
fn the_readme_lists_every_command_view_and_errno() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let first_cells = in_first_cells(&readme);
    let mut missing = Vec::new();
    let commands = Cli::command();
    let commands = commands.get_subcommands().filter(|command| !command.is_hide_set());
    for command in commands.map(clap::Command::get_name) {
        let listed = |cell: &String| cell.split(' ').next() == Some(command);
        if !first_cells.iter().any(listed) {
            missing.push(format!("command {command}"));
        }
    }
    for path in view::ALL.iter().map(|view| view.path()) {
        if !first_cells.iter().any(|cell| cell == path) {
            missing.push(format!("view {path}"));
        }
    }
    for errno in ReadErrorKind::ALL.map(ReadErrorKind::errno_name) {
        if !first_cells.iter().any(|cell| cell == errno) {
            missing.push(format!("errno {errno}"));
        }
    }
    assert!(missing.is_empty(), "not in README.md: {}", missing.join(", "));
}

/// What a text says in backquotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_documents_name_each_view_whose_opens_are_patient() {
    let held = view::ALL.iter().filter(|view| view.is_held()).map(|view| view.path());
    let held: Vec<_> = held.collect();
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let row = text.lines().find_map(|line| line.strip_prefix("| *patient* open |")).unwrap();
    assert_eq!(quoted(row), held, "in the vocabulary of ARCHITECTURE.md");
    let text = freshness();
    let said = text.split("**What git gets.**").nth(1).unwrap().split("\n\n").next().unwrap();
    let missing: Vec<_> = held.iter().filter(|view| !quoted(said).contains(view)).collect();
    assert!(missing.is_empty(), "not under \"What git gets\" in FRESHNESS.md: {missing:?}");
}

fn freshness() -> String {
    fs::read_to_string(root().join("docs/FRESHNESS.md")).unwrap()
}

#[test]
fn the_windows_in_freshness_are_those_of_the_code() {
    let text = freshness();
    let wins = Windows::default();
    let seconds = |time: Duration| time.as_secs();
    let minutes = |time: Duration| time.as_secs() / 60;
    let hours = |time: Duration| time.as_secs() / 3600;
    let permanent = windows::PERMANENT_RETRY;
    for (window, number) in [
        (
            "background refresh",
            format!("{} min ± {} min |", minutes(wins.interval), minutes(wins.jitter)),
        ),
        (
            "… of a token that came again",
            format!(
                "when {} min of it are left, plus 0–{} s |",
                minutes(windows::PLATFORM_CACHE),
                seconds(windows::REPEAT_SPREAD)
            ),
        ),
        (
            "what git should have left",
            format!(
                "{} % of the life |",
                wins.git_min_life_of(Duration::from_secs(100), false).as_secs()
            ),
        ),
        ("minimum life", format!("{} s, a tenth of a short life |", seconds(windows::MIN_LIFE))),
        ("deadline of an open", format!("{} s |", seconds(wins.open_timeout))),
        (
            "back-off",
            format!(
                "{} ms, doubled up to {} s, ",
                windows::BACK_OFF_FIRST.as_millis(),
                seconds(windows::BACK_OFF_LONGEST)
            ),
        ),
        (
            "`Retry-After`, rate-limit reset",
            format!("as asked, up to {} h, ", hours(windows::LONGEST_WISH)),
        ),
        (
            "permanent failure (401, 403, 404, a bad bearer file)",
            format!(
                "{}–{} s |",
                seconds(permanent),
                seconds(permanent + windows::PERMANENT_SPREAD)
            ),
        ),
        ("one request", format!("10 s, counted as hung after {} s |", seconds(wins.fetch_timeout))),
        (
            "earlier source of the chain",
            format!(
                "{} % of an open's deadline |",
                windows::hold(Duration::ZERO, Duration::from_secs(100)).as_secs()
            ),
        ),
        (
            "a rejected token that comes again",
            format!("withheld for {} s |", seconds(windows::WITHHELD)),
        ),
        (
            "further rejects of it",
            format!("only counted for {} s |", seconds(windows::REJECT_QUIET)),
        ),
        ("idle", format!("{} h without an open |", hours(wins.idle))),
    ] {
        let row = format!("| {window} | {number}");
        assert!(text.contains(&row), "FRESHNESS.md has no row that begins with {row:?}");
    }
    assert_eq!(windows::FORCED_SPACING, Duration::from_secs(1), "one a second");
}

/// 12345 as 12,345.
fn grouped(number: &Value) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number with so many places, with its unit; a dash where there is none.
fn rounded(number: &Value, places: usize, unit: &str) -> String {
    number.as_f64().map_or("–".to_owned(), |number| format!("{number:.places$}{unit}"))
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The rows that the figures of `scripts/evidence fleet` make.
fn rows_of_the_fleet(figures: &Value) -> Vec<String> {
    let list = |key: &str| figures[key].as_array().unwrap().iter();
    let worst = list("worst_wherever_in_the_wave").map(|worst| {
        let cells = [
            word(&worst["scenario"]).to_owned(),
            word(&worst["rule"]).to_owned(),
            grouped(&worst["most_without_token"]),
            rounded(&worst["seconds_until_all_have_one"], 0, " s"),
            rounded(&worst["busiest_minute"], 2, " ×"),
            rounded(&worst["echo"], 2, " ×"),
            grouped(&worst["reads_dead"]),
            grouped(&worst["reads_refused"]),
        ];
        format!("| {} |", cells.join(" | "))
    });
    let ours = list("compared").filter(|life| word(&life["rule"]) == "molecule-tokenfs");
    let ours = ours.map(|life| {
        let cells = [
            grouped(&life["workspaces"]),
            word(&life["scenario"]).to_owned(),
            grouped(&life["without_token_at_recovery"]),
            grouped(&life["without_token_a_minute_after"]),
            grouped(&life["most_answered_requests_of_one"]),
            rounded(&life["busiest_minute"], 2, " ×"),
            rounded(&life["echo"], 2, " ×"),
            rounded(&life["seconds_between_attempts_without_token"], 1, " s"),
            rounded(&life["seconds_between_attempts_with_token"], 0, " s"),
        ];
        format!("| {} |", cells.join(" | "))
    });
    let days = list("days").map(|day| {
        let (platform, each) = (word(&day["platform"]), rounded(&day["requests_each"], 1, ""));
        let busiest = rounded(&day["busiest_minute"], 2, " ×");
        format!("| {platform} | {each} | {} | {busiest} |", grouped(&day["most_requests_of_one"]))
    });
    worst.chain(ours).chain(days).collect()
}

fn evidence(name: &str) -> Value {
    let figures = fs::read(root().join("docs/evidence").join(name)).unwrap();
    serde_json::from_slice(&figures).unwrap()
}

#[test]
fn the_figures_of_the_soak_in_freshness_are_those_of_its_evidence() {
    let figures = evidence("soak.json");
    let (verdict, control) = (&figures["verdict"], &figures["control"]);
    let cells = [
        grouped(&verdict["opens"]),
        grouped(&figures["opens_with_a_token"]),
        grouped(&verdict["dead"]),
        grouped(&verdict["torn"]),
        grouped(&verdict["wrongly_refused"]),
        grouped(&verdict["late"]),
        grouped(&verdict["other_sizes"]),
        format!("{} of {}", control["late"], grouped(&control["wake_ups"])),
    ];
    let row = format!("| {} |", cells.join(" | "));
    assert!(freshness().contains(&row), "not in FRESHNESS.md: {row}");
}

#[test]
fn the_figures_of_the_attacks_in_freshness_are_those_of_their_evidence() {
    let figures = evidence("attack.json");
    let names = ["attacks", "opens", "late", "dead", "foreign", "deaths", "runs_as_root"];
    for (form, figures) in figures["forms"].as_object().unwrap() {
        let cells = names.map(|name| grouped(&figures[name])).join(" | ");
        let row = format!("| {form} | {cells} |");
        assert!(freshness().contains(&row), "not in FRESHNESS.md: {row}");
        assert_eq!(figures["harm"], Value::Array(Vec::new()), "{form}");
    }
    let text = freshness().replace('\n', " ");
    let hosts = format!("{} tokens reached an evil host", figures["tokens_at_evil_hosts"]);
    let limits = format!(
        "later than {} s, the deadline of {} s and {} s of grace",
        figures["open_timeout_seconds"].as_u64().unwrap()
            + figures["grace_seconds"].as_u64().unwrap(),
        figures["open_timeout_seconds"],
        figures["grace_seconds"]
    );
    let seed = format!("--seed {}", figures["seed"]);
    for words in [hosts, limits, seed] {
        assert!(text.contains(&words), "not in FRESHNESS.md: {words}");
    }
}

#[test]
fn the_figures_of_the_owners_are_those_of_their_evidence() {
    let figures = evidence("owners.json");
    let cells = [
        grouped(&figures["seconds"]),
        rounded(&figures["token_life_seconds"], 0, " s"),
        grouped(&figures["operations"]),
        grouped(&figures["failed_operations"]),
        grouped(&figures["live_tokens_at_the_server"]),
        grouped(&figures["dead_tokens_at_the_server"]),
        grouped(&figures["tokens_of_another_owner_or_repository_at_the_server"]),
    ];
    let row = format!("| {} |", cells.join(" | "));
    let text = fs::read_to_string(root().join("docs/GITHUB_APP.md")).unwrap();
    assert!(text.contains(&row), "not in GITHUB_APP.md: {row}");
}

#[test]
fn the_figures_of_the_simulation_in_freshness_are_those_of_its_evidence() {
    let (figures, mutations) = (evidence("simulation.json"), evidence("mutations.json"));
    let names = ["histories", "opens", "served", "judged_by_the_issuers_clock", "violations"];
    let row = format!("| {} |", names.map(|name| grouped(&figures[name])).join(" | "));
    assert!(freshness().contains(&row), "not in FRESHNESS.md: {row}");
    let mutations = mutations["mutations"].as_array().unwrap();
    let seeds: Vec<_> = mutations.iter().filter_map(|m| m["caught_at_seed"].as_u64()).collect();
    let (caught, slowest) = (seeds.len(), seeds.iter().max().unwrap());
    let text = freshness().replace('\n', " ");
    for sentence in
        [format!("{caught} of {} ways", mutations.len()), format!("the slowest at seed {slowest}")]
    {
        assert!(text.contains(&sentence), "not in FRESHNESS.md: {sentence}");
    }
}

#[test]
fn the_figures_of_the_containers_are_those_of_their_evidence() {
    let (figures, hour) = (evidence("containers.json"), evidence("hour.json"));
    let text = fs::read_to_string(root().join("docs/CONTAINERS.md")).unwrap();
    let names = [
        "gh_ok",
        "gh_failed",
        "git_ok",
        "git_failed",
        "shells_ok",
        "shells_failed",
        "dead_tokens_at_the_server",
    ];
    for figures in figures["runtimes"].as_array().unwrap() {
        let (runtime, wiring) =
            (figures["runtime"].as_str().unwrap(), figures["wiring"].as_str().unwrap());
        let numbers = names.map(|name| grouped(&figures[name])).join(" | ");
        let first = figures["first_failure_seconds"].as_u64();
        let first = first.map_or("none".to_owned(), |seconds| format!("{seconds} s"));
        let row = format!("| {runtime} | {wiring} | {numbers} | {first} |");
        assert!(text.contains(&row), "not in CONTAINERS.md: {row}");
    }
    let text = text.replace('\n', " ");
    let rounds = figures["templates"].as_array().unwrap().iter();
    let fewest = rounds.filter_map(|template| template["gh_ok"].as_u64()).min().unwrap();
    let [gh, git, shells] = ["gh_ok", "git_ok", "shells_ok"].map(|name| grouped(&hour[name]));
    for sentence in [
        format!("does {fewest} rounds or more without a failure"),
        format!("{gh} calls of gh, {git} of git and {shells} shells over"),
    ] {
        assert!(text.contains(&sentence), "not in CONTAINERS.md: {sentence}");
    }
}

#[test]
fn the_figures_of_the_fleet_in_freshness_are_those_of_its_evidence() {
    let figures = evidence("fleet.json");
    let (rows, text) = (rows_of_the_fleet(&figures), freshness());
    assert!(rows.len() > 20);
    let missing = rows.iter().filter(|row| !text.contains(*row)).collect::<Vec<_>>();
    assert!(missing.is_empty(), "not in FRESHNESS.md: {missing:#?}");
    let claims = figures["claims"].as_array().unwrap();
    assert!(!claims.is_empty() && claims.iter().all(|claim| claim["holds"] == true));
}

#[test]
fn the_figures_of_one_app_are_those_of_its_evidence() {
    let figures = evidence("fleet.json");
    let app = &figures["one_app"];
    let count = |key: &str| grouped(&app[key]);
    let (calm, safe) = (count("in_its_stride"), count("through_anything"));
    let text = freshness();
    for sentence in [
        format!("With {} mints a minute it carries **{calm}**", count("mints_a_minute")),
        format!("({} were too many)", count("too_many_in_its_stride")),
        format!("**{safe}** all have a token again"),
    ] {
        assert!(text.contains(&sentence), "not in FRESHNESS.md: {sentence}");
    }
    for life in figures["lives_of_one_app"].as_array().unwrap() {
        let cells = [
            grouped(&life["identities"]),
            word(&life["what"]).to_owned(),
            grouped(&life["most_mints_in_60_s"]),
            grouped(&life["opens"]),
            grouped(&life["opens_refused"]),
            rounded(&(life["longest_wait_ms"].as_f64().unwrap() / 1000.0).into(), 1, " s"),
            rounded(&life["seconds_until_all_have_one"], 0, " s"),
        ];
        let row = format!("| {} |", cells.join(" | "));
        assert!(text.contains(&row), "not in FRESHNESS.md: {row}");
    }
    let page = fs::read_to_string(root().join("docs/GITHUB_APP.md")).unwrap();
    let sentence = format!("carry {calm} tokens that are read all day, and {safe}");
    assert!(page.contains(&sentence), "not in GITHUB_APP.md: {sentence}");
    let claims = figures["claims_of_one_app"].as_array().unwrap();
    assert!(!claims.is_empty() && claims.iter().all(|claim| claim["holds"] == true));
}

/// The rows that the figures of `scripts/evidence bench` and `scripts/evidence idle` make.
fn rows_of_the_cost(bench: &Value, idle: &Value) -> Vec<String> {
    let in_bench = |key: &str| bench[key].as_array().unwrap().iter();
    let claims = in_bench("claims").chain(idle["claims"].as_array().unwrap());
    let claims = claims.map(|claim| {
        let number = |key: &str| rounded(&claim[key], 2, "");
        let verdict = if claim["holds"] == true { "holds" } else { "does not hold" };
        let (what, measured, most) = (word(&claim["what"]), number("measured"), number("at_most"));
        format!("| {what} | {measured} | {most} | {verdict} |")
    });
    let reads = in_bench("open_read_close").map(|reads| {
        let micros = |key: &str| rounded(&reads[key], 1, "");
        let cells = [
            word(&reads["subject"]).to_owned(),
            if reads["on_one_core"] == true { "one" } else { "all" }.to_owned(),
            reads["readers"].to_string(),
            micros("p50_us"),
            micros("p50_typical_us"),
            micros("p99_us"),
            micros("reader_cpu_us"),
            micros("server_cpu_us"),
            grouped(&Value::from(rounded(&reads["a_second"], 0, "").parse::<u64>().unwrap())),
        ];
        format!("| {} |", cells.join(" | "))
    });
    let times = in_bench("git_credential_fill").chain([&bench["exec_to_first_stat"]]);
    let times = times.map(|times| {
        let millis = |key: &str| rounded(&times[key], 1, " ms");
        format!("| {} | {} | {} |", word(&times["what"]), millis("p50_ms"), millis("p90_ms"))
    });
    claims.chain(reads).chain(times).collect()
}

#[test]
fn the_figures_of_the_cost_are_those_of_its_evidence() {
    let (bench, idle) = (evidence("bench.json"), evidence("idle.json"));
    let text = fs::read_to_string(root().join("docs/BENCHMARKS.md")).unwrap();
    let machine = &bench["machine"];
    let machine = format!(
        "{}, {} cores, Linux {}, load average {}",
        word(&machine["processor"]),
        machine["cores"],
        word(&machine["kernel"]),
        machine["load_average"]
    );
    let rows = rows_of_the_cost(&bench, &idle);
    let missing =
        rows.iter().chain([&machine]).filter(|row| !text.contains(*row)).collect::<Vec<_>>();
    assert!(rows.len() > 40 && missing.is_empty(), "not in BENCHMARKS.md: {missing:#?}");
}

#[test]
fn the_figures_of_the_packages_are_those_of_their_evidence() {
    let figures = evidence("packages.json");
    let text = fs::read_to_string(root().join("docs/PACKAGES.md")).unwrap();
    let (deb, tarball, program) = (&figures["deb"], &figures["tarball"], &figures["program"]);
    for row in [
        format!("| wheel | {} | ", grouped(&figures["wheel"]["bytes"])),
        format!("| deb | {} | ", grouped(&deb["bytes"])),
        format!("| tarball | {} | ", grouped(&tarball["bytes"])),
        format!("{} reloads ", deb["reloads"]),
        format!("during {} reads,", grouped(&deb["reads_meanwhile"])),
        format!(
            "glibc {} (built beside {})",
            word(&tarball["glibc"]),
            word(&tarball["glibc_here"])
        ),
        format!(
            "{} bytes and requires glibc {}.",
            grouped(&program["bytes"]),
            word(&program["needs_glibc"])
        ),
    ] {
        assert!(text.contains(&row), "not in PACKAGES.md: {row}");
    }
}

#[test]
fn paths_are_found_in_a_text() {
    let text = "See `scripts/attic`, ./docs/old.md and tests/*.rs; not http://x/src/y or a/src/z.";
    assert_eq!(paths(text), ["scripts/attic", "docs/old.md", "tests/"]);
}
