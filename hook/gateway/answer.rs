//! The answer to an authorized request: what Connect has, without what is out of scope.

use std::collections::BTreeSet;

use serde_json::Value;

use super::denial::Denial;
use super::memory::Buffer;
use super::query::Query;
use super::record::Record;
use super::response::Content;
use super::route::Route;
use super::scope::{ItemScope, Scope, VaultScope};
use super::upstream::{Object, Upstream};

/// An authorized request.
pub struct Reading<'a> {
    /// Connect.
    pub upstream: &'a Upstream,
    /// What the identity may read.
    pub scope: &'a Scope<'a>,
    /// The query of the request.
    pub query: &'a Query,
}

impl<'a> Reading<'a> {
    /// Reads what a route refers to.
    ///
    /// # Errors
    /// It does not exist or is out of scope, or Connect does not respond.
    pub async fn answer(&self, route: &Route, record: &mut Record) -> Result<Content, Denial> {
        match route {
            Route::Vaults => self.vaults(record).await,
            Route::Vault(v) => {
                let visible = self.vault(v).await?;
                let mut buffer = self.read(&["vaults", v], || not_found("vault", v)).await?;
                let mut vault = parse(&mut buffer)?;
                visible.cut_vault(&mut vault);
                Ok(json(buffer, &vault))
            }
            Route::Items(v) => self.items(v, record).await,
            Route::Item(v, i) => {
                let (buffer, mut item, visible) = self.item(v, i, record).await?;
                visible.cut_item(&mut item);
                Ok(json(buffer, &item))
            }
            Route::Files(v, i) if self.query.inline_files => self.inline_files(v, i, record).await,
            Route::Files(v, i) => {
                let visible = self.visible_files(v, i, record).await?;
                let path = ["vaults", v, "items", i, "files"];
                let files = self.upstream.list(&path, &[], |file| visible.contains(text(file, "id"))).await?;
                let (files, count) = files.ok_or_else(|| not_found("item", i))?;
                record.entries(count);
                Ok(Content::Json(files))
            }
            Route::File(v, i, f) => {
                self.check_file(v, i, f, record).await?;
                let file = self.upstream.read(&["vaults", v, "items", i, "files", f], self.query.inline()).await?;
                let mut buffer = file.ok_or_else(|| not_found("file", f))?;
                let file = parse(&mut buffer)?;
                Ok(json(buffer, &file))
            }
            Route::Content(v, i, f) => {
                self.check_file(v, i, f, record).await?;
                let content = self.upstream.ask(&["vaults", v, "items", i, "files", f, "content"], &[]).await?;
                Ok(Content::File(content.ok_or_else(|| not_found("file", f))?))
            }
        }
    }

    async fn vaults(&self, record: &mut Record) -> Result<Content, Denial> {
        let vaults = self.upstream.list(&["vaults"], &[], |vault| {
            match self.scope.of_vault(text(vault, "id"), text(vault, "name")) {
                Some(visible) => {
                    visible.cut_vault(vault);
                    self.query.matches(vault)
                }
                None => false,
            }
        });
        let (vaults, count) = vaults.await?.ok_or(Denial::ConnectOdd)?;
        record.entries(count);
        Ok(Content::Json(vaults))
    }

    async fn items(&self, v: &str, record: &mut Record) -> Result<Content, Denial> {
        let vault = self.vault(v).await?;
        let filter = self.query.filter_for_connect("title");
        let filter: Vec<(&str, &str)> = filter.iter().map(|filter| ("filter", filter.as_str())).collect();
        let path = ["vaults", v, "items"];
        let items = self.upstream.list(&path, &filter, |item| match vault.of_item(item) {
            Some(visible) => {
                visible.cut_item(item);
                self.query.matches(item)
            }
            None => false,
        });
        let (items, count) = items.await?.ok_or_else(|| not_found("vault", v))?;
        record.entries(count);
        Ok(Content::Json(items))
    }

    /// The files of an item with their content. Each is read by itself: one large file that is hidden would fail them all.
    async fn inline_files(&self, v: &str, i: &str, record: &mut Record) -> Result<Content, Denial> {
        let mut buffer = self.upstream.buffer();
        let visible = self.visible_files(v, i, record).await?;
        buffer.append(b"[").await?;
        for (at, f) in visible.iter().enumerate() {
            if at > 0 {
                buffer.append(b",").await?;
            }
            let begin = buffer.bytes().len();
            let path = ["vaults", v, "items", i, "files", f];
            let is_found = self.upstream.read_into(&mut buffer, &path, self.query.inline()).await;
            // Together they are larger than a response can be.
            let is_found = is_found.map_err(|denial| match denial {
                Denial::ConnectOdd if at > 0 => Denial::Invalid { what: "File is too large to inline in request" },
                denial => denial,
            })?;
            let file = buffer.bytes().get(begin..).filter(|_| is_found).ok_or_else(|| not_found("item", i))?;
            serde_json::from_slice::<serde::de::IgnoredAny>(file).map_err(|_| Denial::ConnectOdd)?;
        }
        buffer.append(b"]").await?;
        buffer.settle();
        record.entries(visible.len());
        Ok(Content::Json(buffer))
    }

    async fn read(&self, path: &[&str], not_found: impl Fn() -> Denial) -> Result<Buffer, Denial> {
        self.upstream.read(path, &[]).await?.ok_or_else(not_found)
    }

    /// What is visible of a vault.
    async fn vault(&self, id: &str) -> Result<VaultScope<'a>, Denial> {
        for missed in [false, true] {
            let vaults = self.upstream.vaults(missed).await?;
            let vault = vaults.iter().find(|vault| vault.id == id);
            if let Some(visible) = vault.and_then(|vault| self.scope.of_vault(&vault.id, &vault.name)) {
                return Ok(visible);
            }
        }
        Err(not_found("vault", id))
    }

    /// An item with the buffer that it was in, and what is visible of it.
    async fn item(&self, v: &str, i: &str, record: &mut Record) -> Result<(Buffer, Object, ItemScope<'a>), Denial> {
        let vault = self.vault(v).await?;
        let mut buffer = self.read(&["vaults", v, "items", i], || not_found("item", i)).await?;
        let item = parse(&mut buffer)?;
        let visible = vault.of_item(&item).ok_or_else(|| not_found("item", i))?;
        record.item_version(item.get("version").and_then(Value::as_u64));
        Ok((buffer, item, visible))
    }

    /// The ids of the visible files of an item, which is not kept.
    async fn visible_files(&self, v: &str, i: &str, record: &mut Record) -> Result<BTreeSet<String>, Denial> {
        let (_, item, visible) = self.item(v, i, record).await?;
        Ok(visible.files(item))
    }

    async fn check_file(&self, v: &str, i: &str, f: &str, record: &mut Record) -> Result<(), Denial> {
        let visible = self.visible_files(v, i, record).await?;
        if visible.contains(f) { Ok(()) } else { Err(not_found("file", f)) }
    }
}

/// Parses an object, whose text is not kept.
fn parse(buffer: &mut Buffer) -> Result<Object, Denial> {
    serde_json::from_slice(&buffer.take()).map_err(|_| Denial::ConnectOdd)
}

/// An object as an answer, in the memory that its text had.
fn json(mut buffer: Buffer, object: &Object) -> Content {
    // Writing a map of strings to memory does not fail.
    buffer.replace(serde_json::to_vec(object).unwrap_or_default());
    Content::Json(buffer)
}

fn text<'a>(object: &'a Object, member: &str) -> &'a str {
    object.get(member).and_then(Value::as_str).unwrap_or_default()
}

fn not_found(kind: &str, id: &str) -> Denial {
    Denial::NotFound { what: format!("{kind} {id}") }
}
