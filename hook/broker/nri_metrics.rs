//! Metrics of the NRI plugin.

use super::source::Sample;
use crate::nri::Snapshot;

/// The metrics of a plugin in this state.
pub fn samples(snapshot: &Snapshot) -> Vec<Sample> {
    let sample = |name, help, is_counter, value| Sample { name, help, is_counter, value };
    let Snapshot { runtime, registrations, adjusted, refused, started_without, .. } = snapshot;
    let help_of_started = "Containers that request secrets and ran without the hook at the last registration";
    vec![
        sample("nri_registered", "1 while the runtime asks the NRI plugin", false, runtime.is_some().into()),
        sample("nri_registrations", "Registrations with the runtime", true, *registrations),
        sample("nri_adjusted", "Containers that got the hook or annotations from the NRI plugin", true, *adjusted),
        sample("nri_refused", "Containers that the NRI plugin refused", true, *refused),
        sample("nri_started_without_hook", help_of_started, false, *started_without as u64),
    ]
}
