//! The verbs of a whole list.

use crate::attachment::Attachment;
use crate::cache::{Cache, Entry};
use crate::list::{ConfigList, Extra, PluginConfig};
use crate::lock::{Held, Locks};
use crate::outcome::Outcome;
use cni::dispatch::Verb;
use cni::{Code, Error, Result, Version, delegate};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a verb waits for those that must not run beside it. A GC of a
/// thousand attachments takes about 20 s.
const LOCK_LIMIT: Duration = Duration::from_secs(60);

/// Executes the plugins of lists, and remembers what came of it.
#[derive(Debug, Clone)]
pub struct Runtime {
    path: OsString,
    cache: Cache,
    locks: Locks,
}

impl Runtime {
    /// With plugins in the folders of `path` (joined by `:`, as `CNI_PATH`)
    /// and results in `cache`, for example `/var/lib/cni`.
    pub fn new(path: impl Into<OsString>, cache: impl Into<PathBuf>) -> Runtime {
        let cache = Cache::new(cache);
        let locks = Locks::new(cache.folder(), LOCK_LIMIT);
        Runtime { path: path.into(), cache, locks }
    }

    /// Waits at most `limit` for other verbs on the same network, not a
    /// minute.
    pub fn with_lock_limit(mut self, limit: Duration) -> Runtime {
        self.locks = Locks::new(self.cache.folder(), limit);
        self
    }

    /// The results.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Where plugins are looked for.
    pub fn path(&self) -> &OsStr {
        &self.path
    }

    pub(crate) fn locks(&self) -> &Locks {
        &self.locks
    }

    /// Attaches: ADD of each plugin in order, each with the result of the one
    /// before.
    ///
    /// After a failure every plugin gets a DEL, whether it was reached or not
    /// (section 2, DEL). Not so when the attachment was in the cache before:
    /// what it already holds stays.
    ///
    /// # Errors
    /// That of the first plugin that fails, with what went wrong in undoing as
    /// details. A missing plugin or an unknown version fails before anything
    /// is done.
    pub fn add(&self, list: &ConfigList, attachment: &Attachment) -> Result<Outcome> {
        let version = list.version()?;
        let steps = list
            .plugins()
            .iter()
            .map(|plugin| Ok((plugin, self.find(plugin).map_err(|e| failed(plugin, "add", e))?)))
            .collect::<Result<Vec<_>>>()?;
        let _held = self.locks.shared(list.name().as_str())?;
        let known = self.cached(list, attachment);
        let mut last = None;
        let error = match self.add_steps(list, attachment, &steps, version, &mut last) {
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        match known {
            Ok(None) => {}
            Ok(Some(entry)) => {
                return Err(error.with_details(format!(
                    "nothing was undone, because it was attached before ({}): DEL it first",
                    entry.file.display()
                )));
            }
            Err(unknown) => {
                return Err(error.with_details(format!(
                    "nothing was undone, because it may have been attached before ({unknown}): DEL it first"
                )));
            }
        }
        let previous = last.as_ref().map(Outcome::to_value);
        Err(list.plugins().iter().rev().fold(error, |error, plugin| {
            match self.del_step(list, attachment, plugin, previous.as_ref()) {
                Ok(()) => error,
                Err(undo) => error.with_details(format!("undo: {undo}")),
            }
        }))
    }

    fn add_steps(
        &self,
        list: &ConfigList,
        attachment: &Attachment,
        steps: &[(&PluginConfig, PathBuf)],
        version: Version,
        last: &mut Option<Outcome>,
    ) -> Result<Outcome> {
        for (plugin, file) in steps {
            let request = plugin.request(
                list,
                Extra {
                    previous: last.as_ref().map(Outcome::to_value),
                    capabilities: Some(&attachment.capabilities),
                    ..Extra::default()
                },
            );
            let outcome = self
                .execute(file, Verb::Add, Some(attachment), &request)
                .and_then(|stdout| Outcome::read(&stdout, version))
                .map_err(|e| failed(plugin, "add", e))?;
            *last = Some(outcome);
        }
        let outcome = last.clone().expect("a list has a plugin");
        self.cache.put(list, attachment, &outcome)?;
        Ok(outcome)
    }

    /// Verifies an attachment: CHECK of each plugin in order, with the cached
    /// result.
    ///
    /// # Errors
    /// That of the first plugin that fails; a version before 0.4.0; an
    /// attachment that is not in the cache.
    pub fn check(&self, list: &ConfigList, attachment: &Attachment) -> Result<()> {
        if !list.is_at_least(Version::V0_4_0) {
            let version = match list.version_text() {
                "" => Version::V0_1_0.as_str(),
                version => version,
            };
            return Err(Error::new(
                Code::INCOMPATIBLE_VERSION,
                format!("configuration version {version:?} does not support the CHECK command"),
            ));
        }
        let version = list.version()?;
        if list.disable_check() {
            return Ok(());
        }
        let entry = self.cached(list, attachment)?.ok_or_else(|| {
            Error::new(
                Code::UNKNOWN_CONTAINER,
                format!(
                    "check network {:?}: there is no cached result for container {} interface {} in {}: it is not attached",
                    list.name().as_str(),
                    attachment.container_id,
                    attachment.ifname,
                    self.cache.folder().display()
                ),
            )
        })?;
        let previous = entry.outcome(version)?.to_value();
        for plugin in list.plugins() {
            let request = plugin.request(
                list,
                Extra {
                    previous: Some(previous.clone()),
                    capabilities: Some(&attachment.capabilities),
                    ..Extra::default()
                },
            );
            self.find(plugin)
                .and_then(|file| self.execute(&file, Verb::Check, Some(attachment), &request))
                .map_err(|e| failed(plugin, "check", e))?;
        }
        Ok(())
    }

    /// Detaches: DEL of each plugin in reverse order, with the cached result if
    /// there is a usable one; then the cache forgets it. Detaching what is not
    /// attached succeeds.
    ///
    /// # Errors
    /// That of the first plugin that fails. The plugins before it in the list
    /// are not called, so that no address is free while something still points
    /// at it; the cache remembers the attachment, and DEL can be repeated.
    pub fn del(&self, list: &ConfigList, attachment: &Attachment) -> Result<()> {
        // A cache in which nothing can be written must not keep a container
        // alive.
        let _held = tolerate_no_lock(self.locks.shared(list.name().as_str()))?;
        let entry = self.cached(list, attachment).unwrap_or_default();
        self.del_all(list, attachment, entry.as_ref())?;
        self.cache.remove(
            list.name().as_str(),
            attachment.container_id.as_str(),
            attachment.ifname.as_str(),
        )
    }

    pub(crate) fn del_all(
        &self,
        list: &ConfigList,
        attachment: &Attachment,
        entry: Option<&Entry>,
    ) -> Result<()> {
        let previous = previous_for_del(list, entry);
        list.plugins()
            .iter()
            .rev()
            .try_for_each(|plugin| self.del_step(list, attachment, plugin, previous.as_ref()))
    }

    fn del_step(
        &self,
        list: &ConfigList,
        attachment: &Attachment,
        plugin: &PluginConfig,
        previous: Option<&Value>,
    ) -> Result<()> {
        let request = plugin.request(
            list,
            Extra {
                // Before 0.4.0 there is no prevResult for DEL.
                previous: previous.filter(|_| list.is_at_least(Version::V0_4_0)).cloned(),
                capabilities: Some(&attachment.capabilities),
                ..Extra::default()
            },
        );
        self.find(plugin)
            .and_then(|file| self.execute(&file, Verb::Del, Some(attachment), &request))
            .map(drop)
            .map_err(|e| failed(plugin, "delete", e))
    }

    /// Could an ADD be served? STATUS of each plugin in order. Lists before
    /// version 1.1.0 have no STATUS, and nothing is asked.
    ///
    /// # Errors
    /// That of the first plugin that fails; 50 and 51 mean that it is not
    /// ready.
    pub fn status(&self, list: &ConfigList) -> Result<()> {
        if !list.is_at_least(Version::V1_1_0) {
            return list.version().map(drop);
        }
        for plugin in list.plugins() {
            let request = plugin.request(list, Extra::default());
            self.find(plugin)
                .and_then(|file| self.execute(&file, Verb::Status, None, &request))
                .map_err(|e| failed(plugin, "status", e))?;
        }
        Ok(())
    }

    /// Which versions the plugin of CNI type `kind` speaks.
    ///
    /// # Errors
    /// There is no such plugin, or it does not answer VERSION.
    pub fn versions_of(&self, kind: &str) -> Result<Vec<String>> {
        crate::probe::versions_of(&delegate::find_file(&self.path, kind)?)
    }

    pub(crate) fn find(&self, plugin: &PluginConfig) -> Result<PathBuf> {
        delegate::find_file(&self.path, plugin.kind())
    }

    pub(crate) fn cached(
        &self,
        list: &ConfigList,
        attachment: &Attachment,
    ) -> Result<Option<Entry>> {
        self.cache.get(
            list.name().as_str(),
            attachment.container_id.as_str(),
            attachment.ifname.as_str(),
        )
    }

    /// Runs one plugin; variables that do not belong to the verb are empty.
    pub(crate) fn execute(
        &self,
        file: &Path,
        verb: Verb,
        attachment: Option<&Attachment>,
        stdin: &[u8],
    ) -> Result<Vec<u8>> {
        delegate::execute(file, stdin, &|command| {
            let text = |of: fn(&Attachment) -> OsString| attachment.map(of).unwrap_or_default();
            command
                .env("CNI_COMMAND", verb.as_str())
                .env("CNI_CONTAINERID", text(|a| a.container_id.as_str().into()))
                .env("CNI_NETNS", text(|a| a.netns.clone().into()))
                .env("CNI_ARGS", text(|a| a.args_text().into()))
                .env("CNI_IFNAME", text(|a| a.ifname.as_str().into()))
                .env("CNI_PATH", &self.path);
        })
    }
}

/// `plugin type="T" name="N" failed (add): ..`, as the reference library says
/// it; code and details stay.
pub(crate) fn failed(plugin: &PluginConfig, verb: &str, error: Error) -> Error {
    error.context(format!("{} failed ({verb})", plugin.description()))
}

/// The cached result for DEL; one that is broken or cannot be converted is
/// left out.
fn previous_for_del(list: &ConfigList, entry: Option<&Entry>) -> Option<Value> {
    let version = list.version().ok()?;
    entry?.outcome(version).ok().map(|outcome| outcome.to_value())
}

fn tolerate_no_lock(held: Result<Held>) -> Result<Option<Held>> {
    match held {
        Err(e) if e.code() == Code::IO => Ok(None),
        held => held.map(Some),
    }
}

#[cfg(test)]
pub(crate) mod tests;
