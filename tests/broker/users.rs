//! What users other than root get from the broker, and what they cannot reach.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, statat};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use serde_json::{Value, json};

use crate::attacks::{ask, found, receive, refusal_by, request, send, starts};
use crate::peers::{ALICE, BOB, Peer, User, Waiting, broker_for_users, grant};
use crate::support::container::Container;
use crate::world::World;

/// The answer to a request of a peer.
fn answer(peer: &Peer, (request, found): (&Value, &Value), process: BorrowedFd<'_>) -> (Value, Option<OwnedFd>) {
    ask(&peer.socket, request, found, Some(process));
    receive(&peer.socket).expect("the connection was closed")
}

fn own(user: User) -> Waiting {
    Waiting::container(user, &user.map())
}

#[test]
fn a_user_gets_what_a_grant_names_and_learns_nothing_of_other_grants() {
    let Some(world) = World::begin() else { return };
    let broker = broker_for_users(&world, &grant(ALICE));
    // The container's namespace may have all ids of the hook's, or some of them.
    let part = format!("0 {} 10\n2000 {} 1\n", ALICE.subordinate + 990, ALICE.uid);
    for (map, uid, of_host) in [(ALICE.map(), 1000, ALICE.subordinate + 999), (part, 2000, ALICE.uid)] {
        let (peer, container) = (Peer::hook(&broker, ALICE), Waiting::container(ALICE, &map));
        let mut found = found();
        found["container"]["user"] = json!({ "uid": uid, "gid": uid });
        let (answer, mount) = answer(&peer, (&request(), &found), container.pidfd().as_fd());
        assert_eq!(answer, json!({ "delivery": { "files": ["db"] } }));
        let file = statat(mount.unwrap(), "db", AtFlags::empty()).unwrap();
        assert_eq!((file.st_uid, file.st_gid, file.st_mode), (of_host, of_host, 0o100_400));
        send(&peer.socket, &json!("attached"), None);
        assert_eq!(receive(&peer.socket).unwrap().0, json!("recorded"));
    }
    let (answer, mount) = answer(&Peer::hook(&broker, BOB), (&request(), &found()), own(BOB).pidfd().as_fd());
    let expected = json!({ "refused": {
        "code": 77,
        "message": "refusing to grant op://AgentVault/db/password: no grant names it",
        "hint": "a grant in the settings must list \"op://AgentVault/db/password\" or \"op://AgentVault/*\" under `references`, \
                 with to = { user = \"61002\" }",
    } });
    assert!(answer == expected && mount.is_none(), "{answer}");
    assert_eq!(world.decisions(), ["delivered", "delivered", "refused"]);
}

#[test]
fn a_process_that_is_not_of_the_users_container_is_refused() {
    let Some(world) = World::begin() else { return };
    let broker = broker_for_users(&world, &grant(ALICE));
    let foreign = "refusing to deliver to the container: its process is not in a user namespace of uid 61001";
    let refused = |process: OwnedFd, expected: &str| {
        assert_eq!(
            refusal_by(&Peer::hook(&broker, ALICE).socket, (&request(), &found()), Some(process.as_fd())),
            expected
        );
    };
    // Of another user; of root without a user namespace, and with one.
    refused(own(BOB).pidfd(), foreign);
    let of_root = Container::create();
    let pid = Pid::from_raw(of_root.pid().cast_signed()).unwrap();
    refused(pidfd_open(pid, PidfdFlags::empty()).unwrap(), foreign);
    let root = User { uid: 0, subordinate: 6_300_000 };
    refused(own(root).pidfd(), foreign);
    // One id more than those of the user's namespace, at either end, or all of them.
    for (first, count) in [(ALICE.subordinate, 1001), (ALICE.subordinate - 1, 10), (ALICE.uid, 2), (0, u32::MAX)] {
        refused(Waiting::container(ALICE, &format!("0 {first} {count}\n")).pidfd(), foreign);
    }
    // The user's own, but not a container.
    let no_mounts = "refusing to enter the container: it has no mount namespace of its own";
    refused(Waiting::on_host(ALICE).pidfd(), no_mounts);
    // Nobody's ids.
    refused(Waiting::container(BOB, "").pidfd(), "cannot map uid 1000: the container's user namespace has no such id");
    assert!(world.decisions().iter().all(|decision| decision == "refused"));
    starts(&world, &broker);
}

#[test]
fn a_peer_that_is_not_a_hook_of_the_user_is_refused() {
    let Some(world) = World::begin() else { return };
    let broker = broker_for_users(&world, &grant(ALICE));
    let container = own(ALICE);
    let refusal = |peer: &Peer| refusal_by(&peer.socket, (&request(), &found()), Some(container.pidfd().as_fd()));
    let outside = "refusing to answer uid 61001: it asks from outside of a user namespace of its own";
    assert_eq!(refusal(&Peer::on_host(&broker, ALICE)), outside);
    assert_eq!(refusal(&Peer::in_namespace(&broker, ALICE, &format!("{}5000 0 1\n", ALICE.map()))), outside);
    let foreign = "refusing to deliver to the container: its process is not in a user namespace of uid 61001";
    assert_eq!(refusal(&Peer::in_namespace(&broker, ALICE, &BOB.map())), foreign);
    let gone = "the process that has asked has ended";
    assert_eq!(refusal(&Peer::set_user_id(&broker, ALICE, BOB)), gone);
    // The connection outlives the process that has made it, in another process.
    let mut passed_on = Peer::hook(&broker, ALICE);
    passed_on.end();
    assert_eq!(refusal(&passed_on), gone);
    // The same, before the broker has accepted it.
    broker.signal(Signal::STOP);
    let mut passed_on = Peer::hook(&broker, ALICE);
    passed_on.end();
    broker.signal(Signal::CONT);
    assert_eq!(refusal(&passed_on), gone);
    assert!(world.decisions().iter().all(|decision| decision == "refused"));
    starts(&world, &broker);
}

#[test]
fn an_owner_must_be_an_id_of_the_container() {
    let Some(world) = World::begin() else { return };
    let broker = broker_for_users(&world, &grant(ALICE));
    for (owner, id) in [("1001:0", "uid 1001"), ("0:1001", "gid 1001"), ("61002:0", "uid 61002")] {
        let mut request = request();
        request["start"]["annotations"]["run.secrets.owner"] = owner.into();
        let message =
            refusal_by(&Peer::hook(&broker, ALICE).socket, (&request, &found()), Some(own(ALICE).pidfd().as_fd()));
        assert_eq!(message, format!("cannot map {id}: the container's user namespace has no such id"));
    }
}

#[test]
fn a_reason_that_is_not_for_users_is_in_roots_record_alone() {
    let Some(world) = World::begin() else { return };
    let broker = broker_for_users(&world, &grant(ALICE));
    let refusal = || {
        let request = request();
        let id = request["start"]["start"].as_str().unwrap().to_owned();
        let (answer, _) = answer(&Peer::hook(&broker, ALICE), (&request, &found()), own(ALICE).pidfd().as_fd());
        (answer["refused"].clone(), id, world.records().pop().unwrap()["refusal"].clone())
    };
    world.host.write("token", b"e30.e30.e30", 0o600);
    let (printed, id, recorded) = refusal();
    let expected = json!({
        "code": 77,
        "message": format!("the broker cannot deliver: the record of start {id} has the reason, for root"),
        "hint": "root of this host reads it with `oci-secrets audit show`",
    });
    assert_eq!(printed, expected);
    assert!(recorded["message"].as_str().unwrap().contains("refuses the token: 401"), "{recorded}");
}
