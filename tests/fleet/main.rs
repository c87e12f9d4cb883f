//! A fleet of workspaces, each run by the very policy of the engine, through outages of the platform
//! and a restart of all.
//!
//! `scripts/evidence fleet` runs every scenario, with a million workspaces too, beside the rules of
//! the scripts that this project replaces and of kubelet, and draws the picture.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod app;
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

/// `mints-per-minute` where nobody sets it.
const BUDGET: usize = 120;

/// A budget that a short simulation can exhaust.
const SMALL_BUDGET: usize = 12;

#[test]
fn the_identities_of_one_app_share_its_budget_and_none_waits_beyond_its_deadline() {
    let carried = 25 * 12;
    let calm = app::live(&app::in_its_stride(carried, SMALL_BUDGET, 6), false);
    let lives = app::disturbed(carried, SMALL_BUDGET).map(|plan| app::live(&plan, false));
    // More than one token an hour for each.
    let overloaded = app::live(&app::in_its_stride(61 * 12, SMALL_BUDGET, 3), false);
    for figures in lives.iter().chain([&calm, &overloaded]) {
        println!("{figures:?}");
        assert_all(&app::claims_of(figures));
    }
    assert_all(&[app::claim_of_the_carried(&calm)]);
    assert_all(&lives.iter().map(app::claim_of_the_recovery).collect::<Vec<_>>());
    assert!(overloaded.opens_refused > 0 && overloaded.mints_a_minute > 11.5, "{overloaded:?}");
    let told = lives.iter().find(|life| life.asked_although_told.is_some());
    assert!(told.is_some(), "GitHub asked to be left alone: {lives:#?}");
}

#[test]
fn the_evidence_of_one_app_where_it_is_asked_for() {
    let is_whole = evidence().is_some();
    let (budget, hours, fleet) = if is_whole { (BUDGET, 12, FLEET) } else { (4, 1, 320) };
    let carries = app::Carries::find(budget, hours);
    let calm = app::live(&app::in_its_stride(carries.in_its_stride, budget, hours), false);
    let mut claims = vec![app::claim_of_the_carried(&calm)];
    let mut lives = vec![calm];
    for plan in app::disturbed(carries.through_anything, budget) {
        let life = app::live(&plan, false);
        claims.push(app::claim_of_the_recovery(&life));
        lives.push(life);
    }
    // As many as the other scenes have, which is more than an App can carry.
    lives.push(app::live(&app::in_its_stride(fleet, budget, 1), false));
    claims.extend(lives.iter().flat_map(app::claims_of));
    println!("{}", json!(carries));
    for figures in &lives {
        println!("{}", json!(figures));
    }
    if let Some(directory) = evidence() {
        let figures =
            json!({ "one_app": carries, "lives_of_one_app": lives, "claims_of_one_app": claims });
        fs::write(directory.join("app.json"), format!("{figures}\n")).expect("written");
    }
    assert_all(&claims);
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
