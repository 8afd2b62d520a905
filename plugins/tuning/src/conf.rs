//! What the user wrote, and what it means.

use crate::sysctl::Sysctl;
use attach::{mac, mtu};
use cni::args::Args;
use cni::{Error, Network, Request, Result, config};
use linux::link::Mac;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use std::fmt;
use std::path::PathBuf;

/// Upstream's directory.
const DEFAULT_DATA_DIR: &str = "/run/cni/tuning";

/// What ADD sets and CHECK expects. What is `None` is left as it is.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Each parameter once.
    pub(crate) sysctls: Vec<Sysctl>,
    pub(crate) mac: Option<Mac>,
    /// False leaves it as it is.
    pub(crate) promisc: bool,
    /// In bytes.
    pub(crate) mtu: Option<u32>,
    pub(crate) all_multi: Option<bool>,
    /// In packets.
    pub(crate) tx_queue_len: Option<u32>,
}

/// An object of the configuration, and its place in it. Keys are found in any
/// letter case; null is as if it were missing.
struct Keys<'v> {
    object: Option<&'v Value>,
    place: &'static str,
}

impl<'v> Keys<'v> {
    fn get<T>(
        &self,
        key: &str,
        kind: &str,
        read: impl Fn(&'v Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.object.and_then(|object| config::get(object, key)) else {
            return Ok(None);
        };
        let wrong = || invalid(format!("{}{key}: {value} is not {kind}", self.place));
        read(value).map(Some).ok_or_else(wrong)
    }

    fn text(&self, key: &str) -> Result<Option<&'v str>> {
        self.get(key, "text", Value::as_str)
    }

    fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "true or false", Value::as_bool)
    }

    fn number(&self, key: &str) -> Result<Option<i64>> {
        self.get(key, "a whole number", Value::as_i64)
    }

    fn object(&self, key: &str, place: &'static str) -> Result<Keys<'v>> {
        let object = self.get(key, "an object", |value| value.is_object().then_some(value))?;
        Ok(Keys { object, place })
    }

    /// The sysctls.
    fn sysctls(&self, ifname: &str) -> Result<Vec<Sysctl>> {
        let given = self.get("sysctl", "an object", Value::as_object)?;
        let mut sysctls: Vec<Sysctl> = Vec::new();
        for (key, value) in given.into_iter().flatten() {
            let value = value.as_str().ok_or_else(|| {
                invalid(format!("{}sysctl.{key}: {value} is not text", self.place))
            })?;
            let sysctl = Sysctl::new(key, value, ifname)?;
            if let Some(other) = sysctls.iter().find(|other| other.path == sysctl.path) {
                return Err(repeated(format!("{} and {key} are the same", other.key)));
            }
            sysctls.push(sysctl);
        }
        Ok(sysctls)
    }
}

impl Plan {
    /// Decides everything that can be decided without looking at the host.
    ///
    /// # Errors
    /// Code 7 for what is out of range or contradicts itself, 4 for `CNI_ARGS`.
    pub(crate) fn new(request: &Request) -> Result<Plan> {
        let args = Args::parse(&request.args, &["MAC"])?;
        Plan::with(&request.network, args.get("MAC").unwrap_or_default(), request.ifname.as_str())
    }

    /// The same without an attachment, for STATUS.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub(crate) fn of(network: &Network) -> Result<Plan> {
        Plan::with(network, "", "eth0")
    }

    fn with(network: &Network, mac_argument: &str, ifname: &str) -> Result<Plan> {
        let conf = Keys { object: Some(network.document()), place: "" };
        let runtime = conf.object("runtimeConfig", "runtimeConfig.")?;
        // Over everything else.
        let over = conf.object("args", "args.")?.object("cni", "args.cni.")?;
        conf.text("dataDir")?;
        refuse_repeated_keys(network.text())?;

        let given = [runtime.text("mac")?.unwrap_or_default(), mac_argument];
        let given = given.into_iter().find(|mac| !mac.is_empty());
        let base = conf.text("mac")?.unwrap_or_default();
        let mac = over.text("mac")?.or(given).unwrap_or(base);
        let mtu = over.number("mtu")?.or(conf.number("mtu")?).unwrap_or_default();
        if mtu < 0 {
            return Err(invalid(format!("mtu {mtu} must not be negative")));
        }
        let (length, base) = (over.number("txQLen")?, conf.number("txQLen")?);
        let length = length.or(base).map(|packets| {
            u32::try_from(packets).map_err(|_| invalid(format!("txQLen {packets} is out of range")))
        });
        let (promisc, base) = (over.bool("promisc")?, conf.bool("promisc")?);
        let (all_multi, base_all_multi) = (over.bool("allmulti")?, conf.bool("allmulti")?);
        let mut sysctls = conf.sysctls(ifname)?;
        let over = over.sysctls(ifname)?;
        sysctls.retain(|sysctl| over.iter().all(|other| other.path != sysctl.path));
        sysctls.extend(over);
        Ok(Plan {
            sysctls,
            mac: Some(mac).filter(|mac| !mac.is_empty()).map(mac::parse).transpose()?,
            promisc: promisc.or(base).unwrap_or_default(),
            mtu: mtu::parse(mtu)?,
            all_multi: all_multi.or(base_all_multi),
            tx_queue_len: length.transpose()?,
        })
    }

    /// Does it set anything on the link itself?
    pub(crate) fn changes_link(&self) -> bool {
        self.mac.is_some()
            || self.promisc
            || self.mtu.is_some()
            || self.all_multi.is_some()
            || self.tx_queue_len.is_some()
    }
}

/// Where the backups are. Anything that cannot be read is the default: DEL and
/// GC must not fail for it.
pub(crate) fn data_dir(network: &Network) -> PathBuf {
    let given = config::get(network.document(), "dataDir").and_then(Value::as_str);
    given.filter(|path| !path.is_empty()).unwrap_or(DEFAULT_DATA_DIR).into()
}

fn invalid(text: impl fmt::Display) -> Error {
    Error::invalid_config(format!("load network configuration: {text}"))
}

fn repeated(which: impl fmt::Display) -> Error {
    invalid(format!("duplicated sysctl keys are not allowed: {which}"))
}

/// A document that was parsed has each key once; the text may not.
fn refuse_repeated_keys(raw: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(raw);
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    Place::Document.deserialize(&mut deserializer).map_err(repeated)
}

/// Where in the text one is.
#[derive(Clone, Copy)]
enum Place {
    Document,
    Args,
    ArgsCni,
    /// Each key here must be there once.
    Sysctl,
}

impl Place {
    fn below(self, key: &str) -> Option<Place> {
        let is = |name: &str| key.eq_ignore_ascii_case(name);
        match self {
            Place::Document | Place::ArgsCni if is("sysctl") => Some(Place::Sysctl),
            Place::Document if is("args") => Some(Place::Args),
            Place::Args if is("cni") => Some(Place::ArgsCni),
            _ => None,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Place {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys: Vec<String> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            match self.below(&key) {
                Some(place) => map.next_value_seed(place)?,
                None => _ = map.next_value::<IgnoredAny>()?,
            }
            if matches!(self, Place::Sysctl) {
                if keys.contains(&key) {
                    return Err(A::Error::custom(format_args!("{key} is there twice")));
                }
                keys.push(key);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
