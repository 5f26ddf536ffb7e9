//! Starts through a broker, in each of which one process is killed at a random moment: the hook, the broker, the runtime or the engine.
//!
//! The container of such a start has all of its files, or its process does not run. Nothing is left of it, and each start that the broker
//! has received has one record. `OCI_SECRETS_TEST_KILLS` is the number of killed starts; `OCI_SECRETS_TEST_SEED` draws the same again.

mod lane;
mod records;
mod seen;
mod tally;
mod victim;

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::engine::Engine;
use crate::support::sandbox;
use crate::support::search::Needle;
use crate::world::World;

use lane::Lane;
use tally::Tally;
use victim::Draw;

/// How many starts are killed; the environment can ask for more, as it does for a release.
const KILLS: u64 = 12;

/// How many of them there are between two lines of progress.
const PROGRESS: u64 = 100;

pub(crate) fn a_start_that_is_killed_at_any_moment_is_whole_or_none_and_leaves_nothing(world: &World) {
    let seed = number_of("OCI_SECRETS_TEST_SEED").unwrap_or_else(|| fastrand::u64(..=u64::from(u32::MAX)));
    let kills = number_of("OCI_SECRETS_TEST_KILLS").unwrap_or(KILLS);
    println!("killed starts: {kills}, OCI_SECRETS_TEST_SEED={seed}");
    let is_installed = |engine: &Engine| engine.programs().iter().all(|program| sandbox::find(program).is_some());
    let engines: Vec<Engine> = victim::ENGINES.into_iter().filter(is_installed).collect();
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
    let tally = Mutex::new(Tally::default());
    let run = |number| {
        let mut lane = Lane::open(world, number);
        loop {
            let start = match tally.lock().unwrap() {
                tally if tally.killed() >= kills => break,
                mut tally => tally.next(),
            };
            let draw = Draw::new(seed.wrapping_add(start), &engines);
            let outcome = lane.start(draw);
            let mut tally = tally.lock().unwrap();
            tally.add(draw, outcome);
            if outcome.is_killed && tally.killed().is_multiple_of(PROGRESS) {
                println!("killed starts: {} of {kills}", tally.killed());
            }
        }
        lane.close()
    };
    let run = &run;
    let lanes = thread::available_parallelism().map_or(2, usize::from);
    let canaries = thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|number| scope.spawn(move || run(number))).collect();
        let joined = lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|panic| resume_unwind(panic)));
        joined.collect::<Vec<String>>()
    });
    for canary in canaries.iter().map(|canary| Needle::new(canary)) {
        assert_eq!(canary.files(began), Vec::<PathBuf>::new());
        assert_eq!(canary.processes(), Vec::<PathBuf>::new());
    }
    tally.into_inner().unwrap().to_string().lines().for_each(|line| println!("figures: {line}"));
}

fn number_of(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
