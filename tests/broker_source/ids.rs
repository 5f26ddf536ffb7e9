//! Remembered ids save requests, and never lead to another item than the reference names.

use std::time::Duration;

use oci_secrets::fault::{Class, Fault as _};
use oci_secrets::source::SourceError;
use oci_secrets::source::connect::Connect;
use oci_secrets::source::connect::ids::CONFIRMED_FOR;

use super::{AGENT_VAULT, DB, PATIENCE, Site, block_on, class, fetch_within, sealed, value};

#[test]
fn a_warm_start_is_one_request() {
    let site = Site::new();
    site.store("db", &sealed(1));
    let shared = site.open();
    assert_eq!(site.cost(|| assert_eq!(value(&shared, DB), sealed(1))), 3);
    assert_eq!(site.cost(|| assert_eq!(value(&shared, DB), sealed(1))), 1);
    assert_eq!(shared.snapshot().ids, 1);
    // The vault is known for another item of it.
    site.store("mail", &sealed(2));
    assert_eq!(site.cost(|| assert_eq!(value(&shared, "op://AgentVault/mail/password"), sealed(2))), 2);
}

#[test]
fn an_item_that_was_renamed_is_not_found_under_its_old_title() {
    let site = Site::new();
    let old = site.store("db", &sealed(1));
    let shared = site.open();
    assert_eq!(value(&shared, DB), sealed(1));
    site.patch(&old, "/title", "db-old");
    assert_eq!(class(&shared, DB), Class::NotFound);
    assert_eq!(value(&shared, "op://AgentVault/db-old/password"), sealed(1));
}

#[test]
fn a_title_that_was_given_to_another_item_leads_there() {
    let site = Site::new();
    let old = site.store("db", &sealed(1));
    let shared = site.open();
    assert_eq!(value(&shared, DB), sealed(1));
    site.patch(&old, "/title", "db-old");
    site.store("db", &sealed(2));
    assert_eq!(value(&shared, DB), sealed(2));
}

#[test]
fn an_item_that_was_deleted_and_recreated_is_the_new_one() {
    let site = Site::new();
    let shared = site.open();
    for number in 1..4 {
        let id = site.store("db", &sealed(number));
        assert_eq!(value(&shared, DB), sealed(number));
        site.delete(&id);
    }
    assert_eq!(class(&shared, DB), Class::NotFound);
}

#[test]
fn an_item_that_was_archived_is_not_served() {
    let site = Site::new();
    let id = site.store("db", &sealed(1));
    let shared = site.open();
    assert_eq!(value(&shared, DB), sealed(1));
    let archived = serde_json::json!([{ "op": "add", "path": "/state", "value": "ARCHIVED" }]);
    site.stand_in.request("PATCH", &format!("/v1/vaults/{AGENT_VAULT}/items/{id}"), &archived);
    assert_eq!(class(&shared, DB), Class::NotFound);
    site.store("db", &sealed(2));
    // The absence is remembered for a second.
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(value(&shared, DB), sealed(2));
}

#[test]
fn an_item_that_moved_to_another_vault_is_not_served_from_the_old_one() {
    let site = Site::new();
    let id = site.store("db", &sealed(1));
    let shared = site.open();
    assert_eq!(value(&shared, DB), sealed(1));
    // 1Password moves an item by making another one in the new vault.
    site.stand_in.create_item("shapes00000000000000000000", "db", &[("", "password", &sealed(2))]);
    site.delete(&id);
    assert_eq!(value(&shared, "op://Shapes/db/password"), sealed(2));
    assert_eq!(class(&shared, DB), Class::NotFound);
}

/// Another item of the same title does not show in the item: it is found when the id is confirmed.
#[test]
fn a_second_item_of_one_title_is_found_when_the_id_is_confirmed() {
    let site = Site::new();
    site.store("db", &sealed(1));
    let settings = site.settings("", "");
    let connect = Connect::of(&settings).unwrap();
    block_on(async {
        let fetch = async || fetch_within(&connect, DB, PATIENCE).await;
        assert_eq!(&**fetch().await.unwrap().value, &sealed(1));
        let later = async || {
            tokio::time::pause();
            tokio::time::advance(CONFIRMED_FOR).await;
            tokio::time::resume();
        };
        later().await;
        let before = site.requests().len();
        assert_eq!(&**fetch().await.unwrap().value, &sealed(1));
        assert_eq!(site.requests().len() - before, 3, "the vault, the title and the item, at the same time");
        assert_eq!(&**fetch().await.unwrap().value, &sealed(1));
        assert_eq!(site.requests().len() - before, 4, "it is confirmed again");
        site.store("db", &sealed(2));
        later().await;
        let error = fetch().await.err().unwrap();
        assert!(matches!(error, SourceError::ManyItems { count: 2, .. }), "{error}");
        assert_eq!(error.class(), Class::Data);
    });
}

#[test]
fn a_reference_by_ids_is_one_request_when_warm() {
    let site = Site::new();
    let id = site.store("db", &sealed(1));
    let shared = site.open();
    let by_id = format!("op://{AGENT_VAULT}/{id}/password");
    assert_eq!(site.cost(|| assert_eq!(value(&shared, &by_id), sealed(1))), 2);
    assert_eq!(site.cost(|| assert_eq!(value(&shared, &by_id), sealed(1))), 1);
    site.patch(&id, "/title", "other");
    assert_eq!(value(&shared, &by_id), sealed(1), "an id stays");
    site.delete(&id);
    assert_eq!(class(&shared, &by_id), Class::NotFound);
}
