//! The commands that execute plugins.

use crate::arguments::GcPlan;
use crate::{Session, print, warn};
use cni::{AttachmentId, Error, IfName, Result};
use runtime::{Attachment, ConfigList, Keep, absolute, load};
use std::path::Path;
use std::process::ExitCode;

pub(crate) fn add(session: &Session, network: &str, netns: &Path) -> Result<ExitCode> {
    let list = session.network(network)?;
    let attachment = session.attachment(netns)?;
    let outcome = session.runtime.add(&list, &attachment)?;
    print(outcome.render())
}

pub(crate) fn check(session: &Session, network: &str, netns: &Path) -> Result<ExitCode> {
    let list = session.network(network)?;
    session.runtime.check(&list, &session.attachment(netns)?)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn del(session: &Session, network: &str, netns: &Path) -> Result<ExitCode> {
    let found = session.network(network);
    let attachment = session.attachment(netns)?;
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
    for (netns, ifname) in &plan.keep {
        let ifname = IfName::new(ifname.as_deref().unwrap_or(session.ifname()))?;
        let path = absolute(netns)?;
        let id = AttachmentId {
            container_id: runtime::container_id_of_netns(&path),
            ifname: ifname.to_string(),
        };
        // A misspelt path would keep nothing, and the one that was meant would
        // go.
        let cached = session.runtime.cache().contents()?.entries.iter().any(|entry| {
            entry.network == network
                && entry.container_id == id.container_id
                && entry.ifname == id.ifname
        });
        if !cached && !runtime::is_namespace(&path) {
            return Err(Error::invalid_config(format!(
                "keep {}: network {network:?} has no attachment there and it is no namespace: \
                 nothing was removed; cnitool list shows the attachments",
                path.display()
            )));
        }
        keep.attachments.push(id);
    }
    if plan.dry_run {
        let stale = session.runtime.stale(&list, &keep)?;
        return crate::show::entries(session, &stale);
    }
    session.runtime.gc(&list, &keep)?;
    Ok(ExitCode::SUCCESS)
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

    fn cached_network(&self, network: &str, attachment: &Attachment) -> Option<ConfigList> {
        let cache = self.runtime.cache();
        let (container_id, ifname) = (attachment.container_id.as_str(), attachment.ifname.as_str());
        let entry = cache.get(network, container_id, ifname).ok()??;
        ConfigList::parse(&entry.config).ok()
    }
}
