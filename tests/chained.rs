//! What the cases of plugins that stand behind another have in common.

use std::net::SocketAddr;

use serde_json::Value;
use testkit::{Case, Feature, Host, with_previous_result};

pub(crate) const BACKENDS: [&str; 2] = ["nftables", "iptables"];

/// A case on a host, with the name of the backend.
pub(crate) type Body = fn(&Host, &str);

/// Each body once for each backend; with iptables those that hold for upstream's
/// plugin as well are run on it.
pub(crate) fn both_backends(
    module: &str,
    upstreams: &[&str],
    bodies: &[(&str, Body)],
) -> Vec<Case> {
    let mut list = Vec::new();
    for (behaviour, body) in bodies.iter().copied() {
        for backend in BACKENDS {
            let name = format!("{module}::{behaviour}_{backend}");
            let needs = [Feature::Bridge, Feature::Nft, Feature::Iptables];
            let case = Case::new(name, &needs, move |host: &Host| body(host, backend));
            let is_upstreams = backend == "iptables" && upstreams.contains(&behaviour);
            list.push(if is_upstreams { case } else { case.ours_only() });
        }
    }
    list
}

/// The newest; for other plugins what Debian's upstream knows.
pub(crate) fn version() -> &'static str {
    if Feature::OurPlugins.present() { "1.1.0" } else { OLD }
}

/// The newest version of Debian's upstream.
const OLD: &str = "1.0.0";

/// A configuration and result as Debian's upstream knows them.
pub(crate) fn old(conf: &Value, result: &Value) -> Value {
    let (mut conf, mut result) = (conf.clone(), result.clone());
    conf["cniVersion"] = OLD.into();
    result["cniVersion"] = OLD.into();
    for interface in result["interfaces"].as_array_mut().expect("a list") {
        interface.as_object_mut().expect("an object").remove("mtu");
    }
    with_previous_result(&conf, &result)
}

/// The address of a result, without its prefix.
pub(crate) fn address(result: &Value, at: usize) -> String {
    let text = result["ips"][at]["address"].as_str().expect("an address");
    text.split('/').next().expect("a prefix").to_owned()
}

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}
