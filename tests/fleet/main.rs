//! A fleet of workspaces, each run by the very policy of the engine, through outages of the platform
//! and a restart of all.
//!
//! `scripts/evidence fleet` runs every scenario, with a million workspaces too, beside the rules of
//! the scripts that this project replaces and of kubelet, and draws the picture.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "../support/claim.rs"]
mod claim;
#[path = "../support/picture.rs"]
mod page;
mod picture;
mod report;
mod rules;
mod world;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use claim::assert_all;
use report::{Curve, Day, Scenario, Worst};
use rules::{Kubelet, OldDaemon, Tokenfs};
use serde_json::json;
use world::Minting;

/// How many workspaces an outage meets.
const FLEET: u32 = 10_000;

/// Where `scripts/evidence fleet` wants the figures and the picture.
#[expect(clippy::disallowed_methods, reason = "how scripts/evidence asks for more")]
fn evidence() -> Option<PathBuf> {
    std::env::var_os("MOLECULE_FLEET_DIR").map(PathBuf::from)
}

#[test]
fn a_fleet_that_lost_its_platform_for_half_an_hour_comes_back_without_a_rush_or_an_echo() {
    let scenario = Scenario::Outage(30);
    let (figures, _) = report::figures::<Tokenfs>(scenario, &scenario.plan(FLEET, Minting::Each));
    println!("{figures:#?}");
    assert_all(&report::claims_of(&figures));
}

#[test]
fn a_day_costs_few_requests_and_a_day_without_readers_none() {
    let fleet = 100;
    for minting in [Minting::Each, Minting::CachePerWorkspace, Minting::CacheForAll] {
        let day = Day::of(fleet, minting);
        println!("{day:#?}");
        assert_all(&[report::claims_of_a_day(&day)]);
    }
    let requests = report::requests_when_nobody_reads(fleet);
    assert_all(&[report::claim_of_the_idle(fleet, requests)]);
}

/// The scenario of the picture.
const SHOWN: Scenario = Scenario::Outage(30);

#[test]
fn the_whole_evidence_where_it_is_asked_for() {
    let fleets: &[u32] = if evidence().is_some() { &[FLEET, 100 * FLEET] } else { &[30] };
    let mut compared = Vec::new();
    let mut curves = Vec::new();
    for &fleet in fleets {
        for scenario in Scenario::ALL {
            let plan = scenario.plan(fleet, Minting::Each);
            for (figures, record) in report::beside_each_other(scenario, fleet) {
                if scenario == SHOWN && fleet == fleets[0] {
                    curves.push(Curve::of(figures.rule, &plan, &record));
                }
                compared.push(figures);
            }
        }
    }
    let fleet = fleets[0];
    let step = Duration::from_mins(5);
    let mut worst = Vec::new();
    let mut ours = Vec::new();
    for scenario in Scenario::ALL {
        let lives = report::wherever_in_the_wave::<Tokenfs>(scenario, fleet, step);
        worst.push(Worst::of(scenario, &lives));
        ours.extend(lives);
        for lives in [
            report::wherever_in_the_wave::<OldDaemon>(scenario, fleet, step),
            report::wherever_in_the_wave::<Kubelet>(scenario, fleet, step),
        ] {
            worst.push(Worst::of(scenario, &lives));
        }
    }
    let behind_a_cache = [Minting::CachePerWorkspace, Minting::CacheForAll]
        .map(|minting| report::figures::<Tokenfs>(SHOWN, &SHOWN.plan(fleet, minting)).0);
    let days = [Minting::Each, Minting::CachePerWorkspace, Minting::CacheForAll]
        .map(|minting| Day::of(fleet, minting));
    let when_nobody_reads = report::requests_when_nobody_reads(fleet);

    let claims = compared
        .iter()
        .filter(|figures| figures.rule == compared[0].rule)
        .chain(&ours)
        .flat_map(report::claims_of)
        .chain(days.iter().map(report::claims_of_a_day))
        .chain([report::claim_of_the_idle(fleet, when_nobody_reads)])
        .collect::<Vec<_>>();
    let drawn = picture::draw(&curves, fleet, Duration::from_mins(30), report::uniform_rate(fleet));
    print!("{}", report::table(&compared));
    println!("\nour rule behind a platform that caches, per workspace and for all:");
    print!("{}", report::table(&behind_a_cache));
    println!("\nthe worst, wherever in the wave of the start it begins ({fleet} workspaces):");
    print!("{}", report::table_of_the_worst(&worst));
    println!();
    for Day { platform, requests_each, most_requests_of_one, .. } in &days {
        println!(
            "a day where the platform {platform}: {requests_each:.1} requests a workspace, \
             at most {most_requests_of_one}"
        );
    }
    println!("a day after the last read and later: {when_nobody_reads} requests");
    if let Some(directory) = evidence() {
        let broken = claims.iter().filter(|claim| !claim.holds).collect::<Vec<_>>();
        println!("{} claims, {} of them broken", claims.len(), broken.len());
        let figures = json!({
            "model": {
                "token_life_minutes": 60,
                "a_read_every_minutes_on_average": world::READ_EVERY.as_secs() / 60,
                "uniform_rate_per_second": report::uniform_rate(fleet),
                "curves_step_seconds": report::STEP,
            },
            "claims": claims,
            "compared": compared,
            "worst_wherever_in_the_wave": worst,
            "behind_a_cache": behind_a_cache,
            "days": days,
            "requests_a_day_after_the_last_read_and_later": when_nobody_reads,
            "curves": curves,
        });
        fs::write(directory.join("fleet.json"), format!("{figures}\n")).expect("written");
        fs::write(directory.join("fleet.svg"), drawn).expect("written");
        assert_all(&claims);
    } else {
        assert_eq!(drawn.matches("class=\"curve").count(), 3 * curves.len());
        assert_eq!(compared.len(), 3 * Scenario::ALL.len());
    }
}
