//! Paths of the reading part of Connect's API.
//!
//! A path is never decoded or normalized, and ids are checked before a path for Connect is built from them, so that it cannot lead
//! anywhere else.

use super::denial::Denial;
use crate::reference::is_id;

/// What a path refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v1/vaults`
    Vaults,
    /// `/v1/vaults/{v}`
    Vault(String),
    /// `/v1/vaults/{v}/items`
    Items(String),
    /// `/v1/vaults/{v}/items/{i}`
    Item(String, String),
    /// `/v1/vaults/{v}/items/{i}/files`
    Files(String, String),
    /// `/v1/vaults/{v}/items/{i}/files/{f}`
    File(String, String, String),
    /// `/v1/vaults/{v}/items/{i}/files/{f}/content`
    Content(String, String, String),
}

impl Route {
    /// Parses the path of a request, which begins with `/v1/`.
    ///
    /// # Errors
    /// It is not a path of the API.
    pub fn parse(path: &str) -> Result<Route, Denial> {
        // 1Password's JavaScript client ends some paths with a slash.
        let path = path.strip_suffix('/').unwrap_or(path);
        let Some(rest) = path.strip_prefix("/v1/vaults") else { return Err(not_found()) };
        if rest.is_empty() {
            return Ok(Route::Vaults);
        }
        let segments: Vec<&str> = rest.strip_prefix('/').ok_or_else(not_found)?.split('/').collect();
        let vault = |id| checked(id, "Invalid Vault UUID");
        let item = |id| checked(id, "Invalid Item UUID");
        let file = |id| checked(id, "Invalid File UUID");
        match segments[..] {
            [v] => Ok(Route::Vault(vault(v)?)),
            [v, "items"] => Ok(Route::Items(vault(v)?)),
            [v, "items", i] => Ok(Route::Item(vault(v)?, item(i)?)),
            [v, "items", i, "files"] => Ok(Route::Files(vault(v)?, item(i)?)),
            [v, "items", i, "files", f] => Ok(Route::File(vault(v)?, item(i)?, file(f)?)),
            [v, "items", i, "files", f, "content"] => Ok(Route::Content(vault(v)?, item(i)?, file(f)?)),
            _ => Err(not_found()),
        }
    }

    /// The operation in records.
    pub fn action(&self) -> &'static str {
        match self {
            Route::Vaults => "list-vaults",
            Route::Vault(..) => "read-vault",
            Route::Items(..) => "list-items",
            Route::Item(..) => "read-item",
            Route::Files(..) => "list-files",
            Route::File(..) => "describe-file",
            Route::Content(..) => "read-file",
        }
    }

    /// The ids of the vault, the item and the file.
    pub fn ids(&self) -> [Option<&str>; 3] {
        match self {
            Route::Vaults => [None; 3],
            Route::Vault(v) | Route::Items(v) => [Some(v), None, None],
            Route::Item(v, i) | Route::Files(v, i) => [Some(v), Some(i), None],
            Route::File(v, i, f) | Route::Content(v, i, f) => [Some(v), Some(i), Some(f)],
        }
    }
}

fn checked(id: &str, what: &'static str) -> Result<String, Denial> {
    if is_id(id) { Ok(id.to_owned()) } else { Err(Denial::Invalid { what }) }
}

fn not_found() -> Denial {
    Denial::NotFound { what: "path".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "abcdefghijklmnopqrstuvwxyz";

    fn status(path: &str) -> Option<u16> {
        Route::parse(path).err().map(|denial| denial.status())
    }

    #[test]
    fn parses_every_path_of_the_reading_part() {
        assert_eq!(Route::parse("/v1/vaults"), Ok(Route::Vaults));
        assert_eq!(Route::parse("/v1/vaults/"), Ok(Route::Vaults));
        let items = format!("/v1/vaults/{ID}/items");
        assert_eq!(Route::parse(&items), Ok(Route::Items(ID.into())));
        for rest in ["", "/files", "/files/abcdefghijklmnopqrstuvwxyz", "/files/abcdefghijklmnopqrstuvwxyz/content"] {
            let path = format!("{items}/{ID}{rest}");
            assert_eq!(
                Route::parse(&path).map(|route| route.ids()[1].map(str::to_owned)),
                Ok(Some(ID.to_owned())),
                "{path}"
            );
        }
    }

    #[test]
    fn refuses_other_paths() {
        for path in ["/v1", "/v1/", "/v1/activity", "/v2/vaults", "/v1/vaultsx", "/v1//vaults", "/v1/vaults//"] {
            assert!(status(path).is_some(), "{path}");
        }
        for rest in [
            "/x",
            "/items/abcdefghijklmnopqrstuvwxyz/x",
            "/items/abcdefghijklmnopqrstuvwxyz/files/abcdefghijklmnopqrstuvwxyz/x",
        ] {
            assert_eq!(status(&format!("/v1/vaults/{ID}{rest}")), Some(404), "{rest}");
        }
    }

    #[test]
    fn no_path_leads_elsewhere() {
        for path in [
            format!("/v1/vaults/{ID}/items/.."),
            format!("/v1/vaults/{ID}/../activity"),
            format!("/v1/vaults/{ID}%2fitems"),
            format!("/v1/vaults/{ID}/items/%2e%2e"),
            format!("/v1/vaults/{}", ID.to_uppercase()),
            format!("/v1/vaults/{ID};x"),
            format!("/v1/vaults/{ID}//items"),
            "/v1/vaults/AgentVault".to_owned(),
            "/v1/vaults/..".to_owned(),
        ] {
            assert!(matches!(status(&path), Some(400 | 404)), "{path}");
        }
    }
}
