//! Whether podman applies the annotations of images to containers.

use crate::cli::finding::Finding;
use crate::fault::Class;
use crate::settings::{Permission, Settings};

/// The first podman that ignores the annotations of images.
const FIXED: [u32; 3] = [4, 5, 1];

/// What this podman does with the annotations of images, unless it ignores them.
///
/// A problem only if the settings allow such annotations: without that, the hook refuses the requests of an image.
pub(super) fn annotations(podman: Option<&str>, settings: &Settings) -> Option<Finding> {
    let version = podman.filter(|version| numbers(version) < FIXED)?;
    let applies = format!("{version}: applies the annotations of images to containers");
    Some(match settings.deliver.image_annotations {
        Permission::Refuse => {
            let detail = format!(
                "{applies}, so the hook refuses requests that the image has too; podman 4.5.1 ignores annotations of images"
            );
            Finding::note("podman", detail)
        }
        Permission::Allow => {
            let detail = format!("{applies}, and the settings allow them: an image can request secrets");
            let advice = "podman 4.5.1; before it, remove image-annotations = \"allow\" under [deliver]";
            Finding::problem_with(Class::Settings, "podman", detail, advice.into())
        }
    })
}

/// Major, minor and patch version; 0 for a missing one.
fn numbers(version: &str) -> [u32; 3] {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    std::array::from_fn(|_| numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(podman: &str, deliver: &str) -> Option<(Option<Class>, String)> {
        let settings: Settings = format!("[deliver]\n{deliver}").parse().unwrap();
        let finding = annotations(Some(podman), &settings)?;
        Some((finding.class(), serde_json::to_string(&finding).unwrap()))
    }

    #[test]
    fn podman_before_4_5_1_is_a_problem_only_if_annotations_of_images_are_allowed() {
        const ALLOW: &str = "image-annotations = \"allow\"";
        for old in ["3.4.4", "4.3.1", "4.5.0", "4.5"] {
            let (class, text) = found(old, "").unwrap();
            assert!(class.is_none() && text.contains("note") && text.contains("podman 4.5.1"), "{text}");
            let (class, text) = found(old, ALLOW).unwrap();
            assert!(class == Some(Class::Settings) && text.contains("podman 4.5.1"), "{text}");
        }
        for new in ["4.5.1", "4.9.4-rhel", "5.0.0-dev", "10.0"] {
            assert!(found(new, "").is_none() && found(new, ALLOW).is_none(), "{new}");
        }
        assert!(annotations(None, &Settings::default()).is_none());
    }
}
