//! What the user wrote, and what it means.

use cni::{Error, IfName, Network, Result};
use serde::Deserialize;

/// The configuration, key by key.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Conf {
    vrfname: String,
    /// 0 is none.
    table: u32,
}

/// What ADD makes and CHECK expects.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The VRF's name.
    pub(crate) name: String,
    /// Its routing table; `None` leaves the choice to whoever makes it.
    pub(crate) table: Option<u32>,
}

impl Plan {
    /// # Errors
    /// Code 7 for what is missing or out of range.
    pub(crate) fn new(network: &Network) -> Result<Plan> {
        let conf: Conf = network.conf()?;
        let invalid = |why: &str| {
            Error::invalid_config(format!(
                "load network configuration: configuration is expected to have a valid vrf name: {why}"
            ))
        };
        if conf.vrfname.is_empty() {
            return Err(invalid("vrfname is missing"));
        }
        // It is the name of a link.
        IfName::new(conf.vrfname.as_str())
            .map_err(|e| invalid(&format!("vrfname {:?}: {}", conf.vrfname, e.msg())))?;
        if conf.vrfname.contains('%') {
            return Err(invalid(&format!(
                "vrfname {:?}: it contains a percent sign",
                conf.vrfname
            )));
        }
        Ok(Plan { name: conf.vrfname, table: Some(conf.table).filter(|table| *table != 0) })
    }
}

/// The VRF's name, for a DEL: `None` where the configuration gives none that ADD
/// would have taken. The rest of it is not looked at.
pub(crate) fn name(network: &Network) -> Option<String> {
    let name = cni::config::get(network.document(), "vrfname")?.as_str()?;
    IfName::new(name).is_ok().then(|| name.to_owned())
}
