//! Making again what is missing of an attachment: after somebody has emptied
//! the packet filter, or taken addresses and routes away.
//!
//! CHECK of a plugin tells whether anything of its own is missing, and RESTORE,
//! a verb that only the plugins of this project know, makes it again. Others
//! refuse it before they do anything.

use crate::attachment::Attachment;
use crate::cache::Entry;
use crate::chain::{Runtime, failed};
use crate::list::{ConfigList, Extra};
use cni::dispatch::Verb;
use cni::{Code, Error, Result, Version};
use std::collections::{BTreeMap, BTreeSet};

impl Runtime {
    /// Has each plugin of a cached attachment whose CHECK fails make again what
    /// is missing, in order, with configuration and result of the ADD; again, as long
    /// as that shows something else to be missing; then all must pass. Answers the
    /// types of those plugins.
    ///
    /// # Errors
    /// The plugins whose CHECK still fails, with why they could not; an attachment
    /// of which the cache does not have the configuration; one that another runtime
    /// deleted meanwhile: then a DEL takes back what was made again.
    pub fn restore(&self, entry: &Entry) -> Result<Vec<String>> {
        let (list, attachment) = whole(entry)?;
        let _held = self.locks().exclusive(list.name().as_str())?;
        let mut restored = BTreeSet::new();
        let mut wanting = self.wanting_of(&list, &attachment, entry)?;
        let mut rounds = 0;
        while !wanting.is_empty() {
            rounds += 1;
            restored.extend(wanting.iter().map(|(at, _)| *at));
            // One may need what another, behind it, brings back: the way to a gateway
            // may be in a table that only that one knows. So all do what they can, and
            // then CHECK tells.
            let restore = |at| self.ask(&list, &attachment, entry, at, Verb::Restore);
            let mut failures: BTreeMap<usize, Error> =
                wanting.iter().filter_map(|(at, _)| Some((*at, restore(*at).err()?))).collect();
            // A runtime that takes no lock forgets an attachment when its DEL is done.
            // What it had removed by then may have been made again, for nobody.
            if self.cached(&list, &attachment)?.is_none() {
                let error = Error::internal("restore: it was deleted meanwhile");
                return Err(match self.del_all(&list, &attachment, Some(entry)) {
                    Ok(()) => error,
                    Err(undo) => error.with_details(format!("undo: {undo}")),
                });
            }
            // What is back may show that more went with it: settings of a bridge's that
            // one behind the bridge makes.
            let still = self.wanting_of(&list, &attachment, entry)?;
            if still == wanting || rounds > list.plugins().len() {
                let reason = |(at, error)| failures.remove(&at).unwrap_or(error);
                Error::join(still.into_iter().map(reason).collect())?;
                break;
            }
            wanting = still;
        }
        Ok(restored.into_iter().map(|at| list.plugins()[at].kind().to_owned()).collect())
    }

    /// The errors of the plugins whose CHECK fails: what [`Runtime::restore`] would
    /// act on.
    ///
    /// # Errors
    /// An attachment that cannot be checked at all.
    pub fn wanting(&self, entry: &Entry) -> Result<Vec<Error>> {
        let (list, attachment) = whole(entry)?;
        let wanting = self.wanting_of(&list, &attachment, entry)?;
        Ok(wanting.into_iter().map(|(_, error)| error).collect())
    }

    /// Which plugins have something missing, and what.
    fn wanting_of(
        &self,
        list: &ConfigList,
        attachment: &Attachment,
        entry: &Entry,
    ) -> Result<Vec<(usize, Error)>> {
        let check = |at| self.ask(list, attachment, entry, at, Verb::Check).err().map(|e| (at, e));
        Ok((0..list.plugins().len()).filter_map(check).collect())
    }

    /// Has plugin number `at` do `verb` with the cached result.
    fn ask(
        &self,
        list: &ConfigList,
        attachment: &Attachment,
        entry: &Entry,
        at: usize,
        verb: Verb,
    ) -> Result<()> {
        let plugin = &list.plugins()[at];
        // Before that there is no CHECK. The plugins may know it all the same.
        let version = list.version()?.max(Version::V0_4_0);
        let request = plugin.request(
            list,
            Extra {
                version: Some(version),
                previous: Some(entry.outcome(version)?.to_value()),
                capabilities: Some(&attachment.capabilities),
                ..Extra::default()
            },
        );
        self.find(plugin)
            .and_then(|file| self.execute(&file, verb, Some(attachment), &request))
            .map(drop)
            .map_err(|error| {
                let foreign = error.code() == Code::INVALID_ENVIRONMENT
                    && error.msg().starts_with("unknown CNI_COMMAND");
                let old = error.code() == Code::INCOMPATIBLE_VERSION
                    && !list.is_at_least(Version::V0_4_0);
                let error = match (foreign, old) {
                    (true, _) => {
                        Error::internal("this plugin cannot do it: DEL and ADD the attachment")
                    }
                    (_, true) => error.context(
                        "the list is of before version 0.4.0, and so is this plugin, which has \
                         no CHECK to tell what is missing",
                    ),
                    _ => error,
                };
                failed(plugin, if verb == Verb::Check { "check" } else { "restore" }, error)
            })
    }
}

/// What an ADD was given.
fn whole(entry: &Entry) -> Result<(ConfigList, Attachment)> {
    let list = ConfigList::parse(&entry.config).map_err(|error| {
        error.context(format!("read the configuration in cache file {}", entry.file.display()))
    })?;
    Ok((list, entry.attachment()?))
}
