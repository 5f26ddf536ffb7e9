//! The attacks. Each name states how the attack fails.

mod input;
mod mounts;
mod paths;
mod process;
mod surroundings;

use crate::scene::Scene;

/// An attack, of at least [`rounds`](crate::scene::Scene::rounds) rounds.
pub(crate) type Attack = fn(&mut Scene);

macro_rules! attacks {
    ($($module:ident::$name:ident)*) => {
        vec![$((concat!(stringify!($module), "::", stringify!($name)), $module::$name as Attack)),*]
    };
}

/// Every attack, in the order of the table.
pub(crate) fn all() -> Vec<(&'static str, Attack)> {
    attacks![
        paths::symlinks_of_the_image_lead_nowhere_else
        paths::links_of_proc_lead_nowhere
        paths::directories_that_are_swapped_meanwhile_gain_nothing
        mounts::mounts_that_are_made_meanwhile_gain_nothing
        mounts::a_shared_root_filesystem_shows_the_host_nothing
        process::a_reused_pid_gets_nothing
        process::a_container_that_exits_midway_leaves_nothing
        process::a_hook_that_is_killed_leaves_all_or_nothing
        process::two_starts_at_once_get_their_own
        surroundings::a_hostile_environment_has_no_effect
        surroundings::a_working_directory_in_the_image_has_no_effect
        surroundings::descriptors_leak_in_neither_direction
        input::endless_input_ends
        input::input_that_stalls_ends
        input::hostile_input_results_in_two_short_lines
    ]
}
