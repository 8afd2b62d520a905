//! The commands that execute plugins.

use crate::arguments::GcPlan;
use crate::{Session, print, warn};
use cni::{AttachmentId, Error, IfName, Result};
use runtime::{Attachment, ConfigList, Entry, Keep, Presence, absolute, load};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(crate) fn add(session: &Session, network: &str, netns: &Path) -> Result<ExitCode> {
    let list = session.network(network)?;
    let attachment = session.attachment(netns)?;
    let was_attached = session.cached(network, &attachment).is_some();
    let outcome = session.runtime.add(&list, &attachment)?;
    print(outcome.render()).map_err(|error| {
        if was_attached {
            return error.with_details("it was attached before, and is");
        }
        // Who is told of a failure expects no attachment.
        match session.runtime.del(&list, &attachment) {
            Ok(()) => error.with_details("what was attached is detached again"),
            Err(left) => error.with_details(format!("undo: {left}")),
        }
    })
}

pub(crate) fn check(session: &Session, network: &str, netns: &Path) -> Result<ExitCode> {
    let list = session.network(network)?;
    session.runtime.check(&list, &session.attached(network, netns)?)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn del(session: &Session, network: &str, netns: &Path) -> Result<ExitCode> {
    let found = session.network(network);
    let attachment = session.attached(network, netns)?;
    let list = match found {
        Ok(list) => list,
        // A configuration that was removed or broken must not keep the
        // attachment alive.
        Err(error) => match session.cached_network(network, &attachment) {
            Some(list) => {
                warn(&format!("{error}; using the configuration of the add"));
                list
            }
            None => return Err(error),
        },
    };
    session.runtime.del(&list, &attachment)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn gc(session: &Session, network: &str, plan: &GcPlan) -> Result<ExitCode> {
    let list = session.network(network)?;
    let mut keep = Keep { attachments: Vec::new(), existing: plan.keep_existing };
    let cached = session.runtime.cache().contents()?.entries;
    for (netns, ifname) in &plan.keep {
        let there = Place { network, netns: absolute(netns)?, ifname: ifname.as_deref() };
        keep.attachments.extend(there.attachments(session, &cached)?);
    }
    let doubtful = |entry: &&Entry| {
        keep.existing && entry.network == network && entry.presence() == Presence::Unknown
    };
    for entry in cached.iter().filter(doubtful).filter(|e| !keep.attachments.contains(&id_of(e))) {
        warn(&format!(
            "container {} interface {} is kept: {} does not say in which namespace it is: \
             where it is gone, --keep or --all detaches it",
            entry.container_id,
            entry.ifname,
            entry.file.display()
        ));
    }
    if plan.dry_run {
        let stale = session.runtime.stale(&list, &keep)?;
        return crate::show::entries(session, &stale);
    }
    session.runtime.gc(&list, &keep)?;
    Ok(ExitCode::SUCCESS)
}

/// What `--keep NETNS[:IFNAME]` names: one interface or all that the network has in a
/// namespace, by whatever path.
struct Place<'a> {
    network: &'a str,
    netns: PathBuf,
    ifname: Option<&'a str>,
}

impl Place<'_> {
    fn attachments(&self, session: &Session, cached: &[Entry]) -> Result<Vec<AttachmentId>> {
        let container_id = runtime::container_id_of_netns(&self.netns);
        let is_there = |entry: &&Entry| {
            entry.network == self.network
                && (entry.container_id == container_id
                    || runtime::is_same_namespace(&entry.netns, &self.netns))
        };
        let there: Vec<&Entry> = cached.iter().filter(is_there).collect();
        let is_meant = |entry: &&Entry| self.ifname.is_none_or(|ifname| ifname == entry.ifname);
        let meant: Vec<AttachmentId> = there.iter().copied().filter(is_meant).map(id_of).collect();
        if !meant.is_empty() {
            return Ok(meant);
        }
        // One that the cache does not know is known to the plugins.
        if there.is_empty() && runtime::is_namespace(&self.netns) {
            let ifname = IfName::new(self.ifname.unwrap_or(session.ifname()))?.to_string();
            return Ok(vec![AttachmentId { container_id, ifname }]);
        }
        // Misspelt, it would keep nothing, and the one that was meant would go.
        let others: Vec<&str> = there.iter().map(|entry| entry.ifname.as_str()).collect();
        let what = match others.is_empty() {
            true => "has no attachment there and it is no namespace".to_owned(),
            false => format!("has {} there, and no other", others.join(", ")),
        };
        Err(Error::invalid_config(format!(
            "keep {}{}: network {:?} {what}: nothing was removed; cnitool list shows the \
             attachments",
            self.netns.display(),
            self.ifname.map(|ifname| format!(":{ifname}")).unwrap_or_default(),
            self.network
        )))
    }
}

fn id_of(entry: &Entry) -> AttachmentId {
    AttachmentId { container_id: entry.container_id.clone(), ifname: entry.ifname.clone() }
}

pub(crate) fn status(session: &Session, network: &str) -> Result<ExitCode> {
    session.runtime.status(&session.network(network)?)?;
    Ok(ExitCode::SUCCESS)
}

impl Session {
    fn network(&self, name: &str) -> Result<ConfigList> {
        let found = load::network(&self.environment.networks, name)?;
        for remark in &found.remarks {
            warn(remark);
        }
        Ok(found.list)
    }

    fn attachment(&self, netns: &Path) -> Result<Attachment> {
        let capabilities = match self.environment.capabilities.is_empty() {
            true => Default::default(),
            false => runtime::parse_capabilities(&self.environment.capabilities)?,
        };
        let args = runtime::parse_args(&self.environment.args)?;
        Ok(Attachment { args, capabilities, ..Attachment::of_netns(netns, self.ifname())? })
    }

    /// An attachment that was made: what `CNI_ARGS` and `CAP_ARGS` do not say is as its
    /// ADD was given it.
    fn attached(&self, network: &str, netns: &Path) -> Result<Attachment> {
        let mut attachment = self.attachment(netns)?;
        if let Some(entry) = self.cached(network, &attachment) {
            if self.environment.args.is_empty() {
                attachment.args = entry.args;
            }
            if self.environment.capabilities.is_empty() {
                attachment.capabilities = entry.capabilities;
            }
        }
        Ok(attachment)
    }

    fn cached_network(&self, network: &str, attachment: &Attachment) -> Option<ConfigList> {
        ConfigList::parse(&self.cached(network, attachment)?.config).ok()
    }

    fn cached(&self, network: &str, attachment: &Attachment) -> Option<Entry> {
        let (container_id, ifname) = (attachment.container_id.as_str(), attachment.ifname.as_str());
        self.runtime.cache().get(network, container_id, ifname).ok()?
    }
}
