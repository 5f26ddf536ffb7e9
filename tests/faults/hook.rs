//! The hook, alone and with a broker.

use crate::support::broker::{self, Broker};
use crate::support::inject;
use crate::world::{World, for_each, wrong_start};

#[test]
fn a_start_is_whole_or_refused_whichever_call_of_the_hook_fails() {
    let Some(world) = World::begin() else { return };
    let (hook, log) = (world.host.program("oci-secrets-hook"), world.host.path("log"));
    assert!(world.start(&mut inject::logged(&hook, &log)).status.success());
    let files = world.files();
    for_each(inject::of_run(&log), |fault| wrong_start(&world, &mut fault.inject(&hook), fault.is_of_memory()));
    world.has_refused_starts();
    assert_eq!(world.files(), files);
    assert_eq!(world.processes("oci-secrets-hook"), [0; 0]);
}

#[test]
fn a_start_is_whole_or_refused_whichever_call_of_a_hook_with_a_broker_fails() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    let (hook, log) = (broker::hook(broker.hook_settings()), world.host.path("log"));
    assert!(world.start(&mut inject::logged(&hook, &log)).status.success());
    let files = world.files();
    for_each(inject::of_run(&log), |fault| wrong_start(&world, &mut fault.inject(&hook), fault.is_of_memory()));
    world.has_refused_starts();
    assert_eq!(world.files(), files);
    assert!(broker.terminate().success());
}
