//! Whether the keys that the settings list can be used to unseal.

use crate::cli::block_on;
use crate::cli::finding::Finding;
use crate::fault::{AnyFault, Class};
use crate::seal::kek::{KekKind, KekUri, Keks};
use crate::settings::Settings;

/// What a pattern's `*` is replaced with, to ask its KMS for a key of this name. It need not exist.
const STAND_IN: &str = "oci-secrets-check";

/// Whether a listed KEK can be used to unwrap.
pub(super) fn finding(settings: &Settings, listed: &str) -> Finding {
    if listed.contains('*') {
        return pattern(settings, listed);
    }
    let tested: Result<KekUri, AnyFault> = listed.parse().map_err(AnyFault::from);
    let abilities = tested.and_then(|kek| {
        let abilities = block_on(settings, async |deadline| {
            Keks::new(settings).describe(&kek, deadline).await.map_err(AnyFault::from)
        })?;
        Ok((kek, abilities))
    });
    match abilities {
        Err(error) => Finding::problem(listed, &*error),
        Ok((kek, abilities)) if !abilities.unwrap => {
            let advice = kek.kind().to_unwrap.into();
            Finding::problem_with(Class::NotPermitted, listed, "our identity may not unwrap".into(), advice)
        }
        Ok((kek, _)) if kek.kind().for_trials => {
            Finding::warning(listed, "can unwrap".into(), "a key file on this host is for trials and tests only".into())
        }
        Ok((_, abilities)) if abilities.wrap => Finding::ok(listed, "can unwrap, and seal".into()),
        Ok(_) => Finding::ok(listed, "can unwrap".into()),
    }
}

/// Whether the KMS of a pattern answers to our identity. Which keys there are is not known, so none can be tested.
fn pattern(settings: &Settings, listed: &str) -> Finding {
    let Some(kind) = KekKind::of(listed) else {
        return Finding::note(listed, "not tested: it names no key, and no kind of key".into());
    };
    let prepared = block_on(settings, async |deadline| {
        Keks::new(settings).prepare_kind(kind, deadline).await.map_err(AnyFault::from)
    });
    if let Err(error) = prepared {
        return Finding::problem(listed, &*error);
    }
    let Some(kek) = stand_in(kind, listed) else {
        return Finding::note(listed, "not tested: it names no key, and no place where its KMS could be asked".into());
    };
    let answered =
        block_on(settings, async |deadline| Keks::new(settings).describe(&kek, deadline).await.map_err(AnyFault::from));
    match answered {
        Err(error) if is_about_the_service(error.class()) => Finding::problem(listed, &*error),
        _ => Finding::ok(listed, "the KMS answers; the pattern names no key, so none was tested".into()),
    }
}

/// Whether an error says that no key can be used, rather than that this one does not exist. What our identity may do with a key is no
/// error.
fn is_about_the_service(class: Class) -> bool {
    !matches!(class, Class::NotFound | Class::Data)
}

/// A key that the pattern matches, if all that leads to the KMS is in the pattern: a part with a `*` of its own must be the key's name.
fn stand_in(kind: &KekKind, listed: &str) -> Option<KekUri> {
    let (place, key) = listed.rsplit_once(['/', '='])?;
    if place.contains('*') || !key.contains('*') || kind.for_trials {
        return None;
    }
    listed.replace('*', STAND_IN).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pattern_of_key_names_leads_to_a_kms() {
        let stand_in = |listed: &str| Some(stand_in(KekKind::of(listed)?, listed)?.to_string());
        let ring = "gcp-kms://projects/acme/locations/europe/keyRings/agents/cryptoKeys";
        assert_eq!(stand_in(&format!("{ring}/*")).unwrap(), format!("{ring}/oci-secrets-check"));
        assert_eq!(stand_in(&format!("{ring}/prod-*")).unwrap(), format!("{ring}/prod-oci-secrets-check"));
        let account = "aws-kms://arn:aws:kms:eu-central-1:123456789012:";
        assert_eq!(stand_in(&format!("{account}key/*")).unwrap(), format!("{account}key/oci-secrets-check"));
        assert!(stand_in("pkcs11:token=agents;object=*").is_some());
        for listed in
            ["gcp-kms://*", "gcp-kms://projects/*/keyRings/a/cryptoKeys/*", "local-kek:*", &format!("{account}*")]
        {
            assert_eq!(stand_in(listed), None, "{listed}");
        }
        assert_eq!(stand_in("aws-kms://arn:aws:kms:*:123456789012:key/*"), None);
    }
}
