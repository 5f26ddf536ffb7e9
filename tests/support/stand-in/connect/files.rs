//! The files of an item and their contents.

use hyper::header::{CONTENT_DISPOSITION, HeaderValue};
use serde_json::Value;

use super::world::{self, World};
use super::{Answer, error, items, text};
use crate::http::{self, Request};

/// The default of `OP_MAX_INLINE_FILE_SIZE_KB`.
const INLINE_FILE_BYTES_MAX: usize = 100 * 1024;

pub(crate) fn answer(world: &World, vault: usize, item: &str, path: &[&str], request: &Request) -> Answer {
    let item = &world.vaults[vault].items[items::find(world, vault, item)?];
    let files = item["files"].as_array().unwrap();
    let inline = request.parameter("inline_files").is_some_and(|value| value == "true");
    let describe = |file: &Value| {
        let content = &world.files[text(&file["id"])];
        match content.len() {
            _ if !inline => Ok(file.clone()),
            0..=INLINE_FILE_BYTES_MAX => Ok(world::inline(file, content)),
            _ => Err(error(
                413,
                "File is too large to inline in request. Use the \
                 /v1/vaults/{vaultUUID}/items/{itemUUID}/files/{fileUUID}/content endpoint instead.",
            )),
        }
    };
    let find = |id: &str| {
        let file = files.iter().find(|file| file["id"] == id);
        file.ok_or_else(|| error(404, &format!("file {id} not found")))
    };
    match path {
        [] => Ok(http::json(200, &files.iter().map(describe).collect::<Result<Value, _>>()?)),
        [id] => Ok(http::json(200, &describe(find(id)?)?)),
        [id, "content"] => {
            let file = find(id)?;
            let disposition = format!("attachment; filename=\"{}\"", text(&file["name"]));
            let content = world.files[text(&file["id"])].clone();
            let response = http::content(200, "application/octet-stream", content);
            Ok(http::with_header(response, CONTENT_DISPOSITION, HeaderValue::try_from(disposition).unwrap()))
        }
        _ => Err(error(404, "not found")),
    }
}
