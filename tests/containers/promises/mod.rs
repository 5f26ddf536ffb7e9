//! The promises, each a sentence, and the engines on which it is shown.

mod command;
mod cri;
mod ctr;
mod delivery;
mod docker;
mod hygiene;
mod log;
mod memory;
mod places;
mod podman;
mod podman_pods;
mod refusal;
mod rootless;
mod rotation;
mod specs;
mod updates;
mod users;

use crate::engine::Engine;
use crate::kills;
use crate::world::World;

/// How a promise is shown.
#[derive(Clone, Copy)]
pub(crate) enum Promise {
    /// On each of these engines.
    On(&'static [Engine], fn(&World, Engine)),
    /// By the hook alone.
    OfHook(fn(&World)),
}

macro_rules! promises {
    ($show:expr; $($module:ident::$name:ident)*) => {
        [$((concat!(stringify!($module), "::", stringify!($name)), $show($module::$name as _))),*]
    };
}

/// Every promise, in the order of the table.
pub(crate) fn all() -> Vec<(&'static str, Promise)> {
    let everywhere = promises![|show| Promise::On(Engine::single(), show);
        delivery::files_have_their_content_owner_and_mode
        delivery::nobody_can_change_the_files
        delivery::the_mount_is_read_only_and_never_swapped
        delivery::a_file_of_300_kib_arrives_whole
        delivery::items_and_fields_become_one_directory
        delivery::a_template_becomes_one_file
        delivery::an_optional_file_may_be_missing
        delivery::containers_at_the_same_time_get_only_their_own
        delivery::a_container_that_asks_for_nothing_starts_in_silence
        refusal::a_failing_hook_stops_the_container_and_says_why
        refusal::explain_prints_what_the_hook_printed
        refusal::a_killed_hook_stops_the_container
        places::an_existing_run_is_used
        places::existing_run_secrets_are_covered
        places::var_run_may_lead_to_run
        places::the_root_may_be_read_only
        places::the_spec_may_mount_a_tmpfs_at_run
        places::the_spec_may_mount_a_tmpfs_at_run_secrets
        places::a_read_only_tmpfs_at_run_secrets_is_refused
        places::a_volume_at_or_below_run_secrets_is_carried_over
        places::a_volume_in_the_place_of_a_file_is_refused
        places::a_symlink_in_a_volume_is_refused
        places::symlinks_of_the_image_stay_in_the_image
        users::another_owner_needs_a_grant
        rotation::a_new_value_is_there_after_a_restart
        log::starts_at_the_same_time_do_not_mix_their_records
        hygiene::nobody_else_holds_the_secret
    ];
    let by_broker = promises![|show| Promise::On(Engine::single(), show);
        updates::a_running_container_gets_each_new_set_whole
        updates::a_container_with_mounts_a_read_only_root_and_a_user_namespace_does_too
    ];
    let annotating = promises![|show| Promise::On(Engine::annotating(), show);
        delivery::a_sandbox_starts_in_silence
        delivery::there_may_be_100_kib_of_annotations
        log::every_start_is_one_audit_record
    ];
    let exact = promises![|show| Promise::On(Engine::exact(), show);
        places::a_missing_run_is_made
        places::a_masked_path_over_the_files_is_refused
        places::a_masked_path_that_leads_to_the_files_is_refused
        users::ids_are_mapped_into_a_user_namespace
        users::a_user_namespace_may_have_a_read_only_root
        users::run_may_belong_to_another_user_of_the_container
        users::an_id_without_a_mapping_is_refused
    ];
    let read_only_later = promises![|show| Promise::On(Engine::READ_ONLY_LATER, show);
        places::the_spec_may_mount_a_read_only_tmpfs_at_run
    ];
    let read_only_at_once = promises![|show| Promise::On(Engine::READ_ONLY_AT_ONCE, show);
        places::a_read_only_tmpfs_at_run_is_refused
    ];
    let runtimes = promises![|show| Promise::On(Engine::RUNTIMES, show);
        delivery::noswap_may_be_required
        places::no_mount_namespace_is_refused
        specs::hooks_of_others_may_come_before_and_after
        specs::the_hook_may_be_called_at_two_stages
        specs::the_root_may_be_moved_instead_of_pivoted
        specs::groups_of_the_user_do_not_open_the_files
        specs::a_mount_namespace_of_others_is_refused
        users::a_run_of_a_user_without_an_id_is_refused
    ];
    // youki knows neither all propagations nor a spec without a user.
    let lenient = promises![|show| Promise::On(&[Engine::Runc, Engine::Crun], show);
        specs::mounts_of_the_root_may_propagate
        specs::a_spec_without_a_user_is_refused
    ];
    let sandboxed = promises![|show| Promise::On(&[Engine::Runsc], show);
        specs::a_sandboxed_runtime_is_refused
    ];
    let podman = promises![|show| Promise::On(Engine::PODMAN, show);
        rotation::podman_restart_brings_the_new_value
        podman::the_references_of_an_envrc_are_words_of_its_command_line
        podman::an_image_cannot_request_secrets
        podman::a_transient_store_delivers_secrets
        podman::a_reference_or_template_under_another_key_is_refused
        podman_pods::a_pod_gives_each_container_its_own
        podman_pods::a_pod_may_have_a_user_namespace
        podman_pods::a_pod_of_kube_play_gives_its_annotations_to_all
        podman::exec_is_given_what_the_container_has
        podman::what_is_made_of_a_container_holds_no_secret
        podman::secrets_of_podmans_own_stay_beside_ours
        podman::stop_and_start_bring_the_new_value
    ];
    let rootful = promises![|show| Promise::On(Engine::ROOTFUL, show);
        podman::what_install_writes_is_enough
        podman::a_device_is_enough_without_hooks_d
        podman::a_quadlet_passes_its_annotations_on
        podman::explain_tells_what_a_container_was_given
    ];
    let rootless = promises![|show| Promise::On(Engine::ROOTLESS, show);
        rootless::what_install_writes_is_enough
        rootless::the_settings_of_root_are_refused
        rootless::the_user_may_keep_its_id
        rootless::run_may_belong_to_another_user_if_the_user_keeps_its_id
        rootless::a_device_that_names_the_users_settings_is_enough
        rootless::a_privileged_container_cannot_change_what_root_has_made
    ];
    let ctr = promises![|show| Promise::On(&[Engine::Containerd], show);
        ctr::annotations_of_the_command_line_ask
    ];
    let cri = promises![|show| Promise::On(&[Engine::Cri], show);
        cri::each_container_of_a_pod_gets_only_its_own
        cri::a_template_of_several_lines_becomes_one_file
        cri::a_failing_hook_stops_one_container_of_a_pod_and_says_why
    ];
    let docker = promises![|show| Promise::On(&[Engine::Docker], show);
        docker::exec_sees_the_files
        docker::ids_may_be_remapped
        docker::restart_brings_the_new_value
        docker::what_docker_keeps_holds_no_secret
        docker::a_tmpfs_of_its_own_mode_at_run_secrets_is_covered
        docker::the_name_of_the_runtime_chooses_the_requests
        docker::a_set_that_the_settings_lack_stops_the_container_and_says_why
    ];
    let hook = promises![Promise::OfHook;
        command::check_finds_no_problem
        command::run_gives_files_to_a_command_of_a_user_without_root
        log::success_is_silent
        log::dev_log_takes_the_place_of_the_journal
        log::a_start_that_no_broker_receives_is_recorded_with_its_requests
        hygiene::a_refusal_does_not_tell_what_it_saw
        hygiene::the_searches_find_what_is_there
        memory::a_crash_leaves_no_core
        memory::nobody_without_the_right_reads_its_memory
        memory::the_kernel_hears_of_the_label_and_of_swap
        kills::a_start_that_is_killed_at_any_moment_is_whole_or_none_and_leaves_nothing
    ];
    [
        &everywhere[..],
        &by_broker,
        &annotating,
        &exact,
        &read_only_later,
        &read_only_at_once,
        &runtimes,
        &lenient,
        &sandboxed,
        &podman,
        &rootful,
        &rootless,
        &ctr,
        &cri,
        &docker,
        &hook,
    ]
    .concat()
}
