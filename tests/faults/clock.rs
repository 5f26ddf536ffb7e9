//! A clock that is set while containers start.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::support::broker::{self, Broker};
use crate::world::{World, wrong_start};

const DAY: i64 = 24 * 60 * 60;

/// Forward and back, to where tokens have expired and to where they are not valid yet.
const JUMPS: [i64; 6] = [1, DAY, -DAY, 20 * 365 * DAY, -20 * 365 * DAY, -1];

/// The clock of the machine, which is right again when this is dropped.
struct Clock {
    right: i64,
    since: Instant,
}

impl Clock {
    fn set(&self, seconds_off: i64) {
        let right = self.right + i64::try_from(self.since.elapsed().as_secs()).unwrap();
        clock_settime(ClockId::Realtime, Timespec { tv_sec: right + seconds_off, tv_nsec: 0 }).unwrap();
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[test]
#[ignore = "sets the clock of the machine: for that of tests/kernels"]
fn a_start_is_whole_or_refused_wherever_the_clock_jumps() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    let (mut by_broker, mut alone) = (broker::hook(broker.hook_settings()), world.host.program("oci-secrets-hook"));
    let clock = Clock { right: clock_gettime(ClockId::Realtime).tv_sec, since: Instant::now() };
    let wrong = |hook: &mut Command| wrong_start(&world, hook, false);
    for jump in JUMPS {
        clock.set(jump);
        assert_eq!(wrong(&mut by_broker).or(wrong(&mut alone)), None, "{jump} s off");
    }
    // Back and forth during each start.
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for jump in JUMPS.iter().cycle().take_while(|_| !is_over.load(Ordering::Relaxed)) {
                clock.set(*jump);
                thread::sleep(Duration::from_millis(7));
            }
        });
        let wrong: Vec<String> = (0..5).filter_map(|_| wrong(&mut by_broker).or(wrong(&mut alone))).collect();
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(wrong, [""; 0]);
    });
    clock.set(0);
    assert!(world.start(&mut alone).status.success());
    // Where a breaker or a pause has begun, it ends.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !world.start(&mut by_broker).status.success() {
        assert!(Instant::now() < deadline, "no start succeeds with the right clock");
        thread::sleep(Duration::from_millis(100));
    }
}
