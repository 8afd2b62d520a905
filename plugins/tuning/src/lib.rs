//! **tuning**: sysctls of the container, and settings of its interface.
//!
//! Chained behind a plugin that made the interface, it sets parameters below
//! `net` in the container's namespace, and the interface's MAC address, MTU,
//! promiscuous and all-multicast mode and transmit queue. DEL puts back what was
//! there before.
//!
//! | what | where | name | created by | removed by | shared |
//! |---|---|---|---|---|---|
//! | values of sysctls | container | from the configuration | [`sysctl::write`] | DEL, GC, which restore the old ones | no |
//! | settings of the link | container | `CNI_IFNAME` | [`settings::Settings::apply`] | DEL, GC, as above | no |
//! | backup | file | [`backup`] | ADD, before any change | DEL, GC | no |

mod allowlist;
mod backup;
mod conf;
mod pattern;
mod settings;
mod sysctl;

use attach::records::{Origin, Records, Slot};
use attach::{ability, chained, kernel, notice, sandbox, undo, verify};
use backup::Backup;
use cni::{Code, Error, Network, Plugin, Request, Result, Success, Version};
use conf::Plan;
use linux::link::{self, Link};
use linux::{Family, Namespace, Socket};
use settings::Settings;
use sysctl::Values;

/// The plugin.
pub struct Tuning;

impl Plugin for Tuning {
    fn name(&self) -> &'static str {
        "tuning"
    }

    fn versions(&self) -> &'static [Version] {
        Version::ALL
    }

    fn add(&self, request: &Request) -> Result<Success> {
        let plan = Plan::new(request)?;
        let result = chained::prev_result(request, "tuning")?;
        allowlist::verify(&plan.sysctls)?;
        let wanted = Settings::wanted(&plan);
        if plan.sysctls.is_empty() && !plan.changes_link() {
            return Ok(result);
        }
        let socket = &sandbox::enter(request)?;
        let link = tuned_link(socket, &plan, request)?;
        let settings = link.as_ref().map(|link| wanted.now(link)).unwrap_or_default();
        let origin = Origin::here(request, link.as_ref().map(|link| link.index))?;
        let mut values = sysctl::values(plan.sysctls.iter().map(|sysctl| sysctl.path.as_str()))?;
        if settings.mac.is_some() {
            values.extend(sysctl::announcing(request.ifname.as_str())?);
        }
        refuse_loss(request, &plan, &result, &values)?;
        let before = Backup { settings, sysctl: values, origin: Some(origin) };

        let records = Records::create(&conf::data_dir(&request.network))?;
        let slot = backup::find(&records, &request.attachment())?;
        undo::scope(&mut (), |(), undo| {
            backup::save(&records, &slot, &before)?;
            undo.push("restore the backup", |()| records.restore(&slot));
            let ifname = request.ifname.as_str();
            undo.push("restore the settings", |()| restore(socket, &before, ifname));
            sysctl::write(&plan.sysctls)?;
            match &link {
                Some(link) => wanted.apply(socket, link),
                None => Ok(()),
            }
        })?;
        tell(&request.network, &plan);
        Ok(tuned(result, request, &plan))
    }

    fn check(&self, request: &Request) -> Result<()> {
        let plan = Plan::new(request)?;
        verify::prev_result(request)?;
        check(&sandbox::enter(request)?, &plan, request)
    }

    fn restore(&self, request: &Request) -> Result<()> {
        let plan = Plan::new(request)?;
        verify::prev_result(request)?;
        allowlist::verify(&plan.sysctls)?;
        let socket = sandbox::enter(request)?;
        if check(&socket, &plan, request).is_ok() {
            return Ok(());
        }
        // The backup stays that of the ADD: how it is now is what somebody did since.
        sysctl::write(&plan.sysctls)?;
        if let Some(link) = tuned_link(&socket, &plan, request)? {
            Settings::wanted(&plan).apply(&socket, &link)?;
        }
        tell(&request.network, &plan);
        Ok(())
    }

    fn del(&self, request: &Request) -> Result<()> {
        let Some(records) = Records::open(&conf::data_dir(&request.network))? else {
            return Ok(());
        };
        let slot = backup::find(&records, &request.attachment())?;
        if slot.content().is_none() {
            return Ok(());
        }
        let namespace = sandbox::namespace_if_there(request)?;
        put_back(&request.network, &records, &slot, namespace, request.ifname.as_str())
    }

    fn gc(&self, network: &Network) -> Result<()> {
        let Some(valid) = network.valid_attachments()? else { return Ok(()) };
        let Some(records) = Records::open(&conf::data_dir(network))? else { return Ok(()) };
        let lost = backup::invalid(&records, network.name(), &valid)?;
        let put_back = |slot: &Slot| put_back(network, &records, slot, None, "").err();
        Error::join(lost.iter().filter_map(put_back).collect())
    }

    fn status(&self, network: &Network) -> Result<()> {
        let plan = Plan::of(network)?;
        let unavailable = |error: Error| error.with_code(Code::NOT_AVAILABLE);
        allowlist::verify(&plan.sysctls).map_err(unavailable)?;
        // Root may set sysctls without.
        if plan.changes_link() {
            ability::network_admin()?;
        }
        ability::entering()?;
        Records::verify_writable(&conf::data_dir(network)).map_err(unavailable)
    }
}

/// For the log.
fn tell(network: &Network, plan: &Plan) {
    network.made(Settings::wanted(plan).keys());
    network.made(plan.sysctls.iter().map(|sysctl| &sysctl.path));
}

/// An IPv6 address that the plugins before this one have promised is not to be taken
/// away again: their CHECK would fail, and who was told of it would not reach it.
fn refuse_loss(request: &Request, plan: &Plan, result: &Success, now: &Values) -> Result<()> {
    let Some(lost) = chained::container_address(request, result, Family::V6) else {
        return Ok(());
    };
    let mtu = plan.mtu.filter(|mtu| *mtu < sysctl::IPV6_MTU_MIN).map(|mtu| format!("mtu {mtu}"));
    let off = || plan.sysctls.iter().find(|sysctl| sysctl.ends_ipv6(&request.ifname, now));
    match mtu.or_else(|| off().map(|sysctl| format!("sysctl {}", sysctl.key))) {
        None => Ok(()),
        Some(what) => Err(Error::invalid_config(format!(
            "tune {}: {what} would remove its IPv6 address {lost}, which the plugins before this one have given it: leave out one of the two",
            request.ifname
        ))),
    }
}

/// Everything is as ADD made it.
fn check(socket: &Socket, plan: &Plan, request: &Request) -> Result<()> {
    plan.sysctls.iter().try_for_each(|sysctl| sysctl.verify(&request.ifname))?;
    match tuned_link(socket, plan, request)? {
        Some(link) => Settings::wanted(plan).verify(&link),
        None => Ok(()),
    }
}

/// The container's interface. A configuration of nothing but sysctls can do
/// without.
fn tuned_link(socket: &Socket, plan: &Plan, request: &Request) -> Result<Option<Link>> {
    let ifname = request.ifname.as_str();
    match link::find(socket, ifname).map_err(kernel)? {
        None if plan.changes_link() => Err(Error::internal(format!(
            "tune {ifname}: there is no such link in {}",
            request.sandbox()
        ))),
        found => Ok(found),
    }
}

/// The previous result, with what the interface has become.
fn tuned(mut result: Success, request: &Request, plan: &Plan) -> Success {
    let ifname = request.ifname.as_str();
    // Loose results have no sandbox; the host may have a link of this name.
    let is_sandboxed = result.interfaces.iter().any(|i| i.name == ifname && !i.sandbox.is_empty());
    for interface in &mut result.interfaces {
        if interface.name != ifname || interface.sandbox.is_empty() == is_sandboxed {
            continue;
        }
        if let Some(mac) = plan.mac {
            interface.mac = mac.to_string();
        }
        // Where it is not reported, that is not ours to begin.
        if let Some(mtu) = plan.mtu.filter(|_| interface.mtu != 0) {
            interface.mtu = i64::from(mtu);
        }
    }
    result
}

/// DEL and GC: how everything was, and then the file away. The namespace is the
/// one given, or the one of the ADD; where neither is there, nothing is left to
/// be put back.
fn put_back(
    network: &Network,
    records: &Records,
    slot: &Slot,
    namespace: Option<Namespace>,
    ifname: &str,
) -> Result<()> {
    if let Some(backup) = backup::of(slot) {
        let namespace = namespace.or_else(|| backup.namespace());
        // A container that was started anew has nothing of the old one.
        if let Some(namespace) = namespace.filter(|there| backup.is_of(there)) {
            sandbox::inside(&namespace, |socket| {
                // Not every value that was there can be given: the range of groups
                // a namespace begins with may be of groups that its user has not.
                // It would not be otherwise the next time.
                if let Err(error) = restore(socket, &backup, ifname) {
                    notice(&format!("tuning: not everything is as it was: {error}"));
                }
                network.removed(backup.settings.keys());
                network.removed(backup.sysctl.iter().map(|(path, _)| path));
                Ok(())
            })?;
        }
    }
    records.remove(slot)
}

/// Puts back the settings of the link, if it is still there, and the sysctls.
fn restore(socket: &Socket, backup: &Backup, ifname: &str) -> Result<()> {
    let found = match backup.link_index() {
        Some(index) => link::get_by_index(socket, index).map(Some),
        None => link::find(socket, ifname),
    };
    let settings = match found {
        Ok(Some(link)) => backup.settings.apply(socket, &link),
        Err(error) if !error.is_not_found() => Err(kernel(error)),
        _ => Ok(()),
    };
    Error::all([settings, sysctl::restore(&backup.sysctl)])
}
