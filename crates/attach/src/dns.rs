//! Name resolution in the result: the configuration's, or else what IPAM gave.

use cni::{Dns, Network, Result};
use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Conf {
    dns: DnsConf,
}

/// A list that is given counts even when it is empty: it says "none".
#[derive(Default, Deserialize)]
#[serde(default)]
struct DnsConf {
    nameservers: Option<Vec<String>>,
    domain: String,
    search: Option<Vec<String>>,
    options: Option<Vec<String>>,
}

/// What `dns` of the configuration says; `None` when it says nothing, and
/// IPAM's word counts.
///
/// # Errors
/// Code 7 for a key of the wrong type.
pub fn configured(network: &Network) -> Result<Option<Dns>> {
    let DnsConf { nameservers, domain, search, options } = network.conf::<Conf>()?.dns;
    let given = nameservers.is_some() || search.is_some() || options.is_some();
    Ok((given || !domain.is_empty()).then(|| Dns {
        nameservers: nameservers.unwrap_or_default(),
        domain,
        search: search.unwrap_or_default(),
        options: options.unwrap_or_default(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(dns: &str) -> Option<Dns> {
        let text = format!(r#"{{"name":"n","dns":{dns}}}"#);
        let network = Network::new(text.into_bytes(), "".into(), &[]).expect("valid");
        configured(&network).expect("valid")
    }

    #[test]
    fn any_part_that_is_given_counts_for_all() {
        for silent in ["null", "{}", r#"{"domain":"","search":null}"#] {
            assert_eq!(of(silent), None, "{silent}");
        }
        assert_eq!(of(r#"{"nameservers":[]}"#), Some(Dns::default()));
        let domain = Dns { domain: "example".into(), ..Dns::default() };
        assert_eq!(of(r#"{"domain":"example"}"#), Some(domain));
        let options = Dns { options: vec!["ndots:2".into()], ..Dns::default() };
        assert_eq!(of(r#"{"OPTIONS":["ndots:2"]}"#), Some(options));
    }
}
