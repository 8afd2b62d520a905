//! host-local's directory, written by anybody. A file is a length, its name, a
//! length, its content; further files follow.

#![no_main]

use cni::{AttachmentId, ContainerId, IfName, Network, Plugin as _, Request};
use host_local::{Holder, HostLocal, survey};
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::path::{Path, PathBuf};

fuzz_target!(|bytes: &[u8]| {
    let root = root();
    let _ = fs::remove_dir_all(&root);
    let directory = root.join("net");
    fs::create_dir_all(&directory).expect("a folder of ours");
    let mut rest = bytes;
    while let (Some(name), Some(content)) = (take(&mut rest), take(&mut rest)) {
        let name = String::from_utf8_lossy(name);
        if !name.contains(['/', '\0']) && !name.is_empty() {
            // `..` and names that are too long cannot be files.
            let _ = fs::write(directory.join(&*name), content);
        }
    }
    let before = held(&root);
    let request = request(&root);
    let added = HostLocal.add(&request);
    if let Ok(result) = &added {
        let [ip] = &result.ips[..] else { panic!("one range, one address: {result:?}") };
        let mine = Holder::Attachment(request.attachment());
        assert!(
            before.iter().all(|(held, by)| *held != ip.address.ip() || *by == mine),
            "{} was another's: {before:?}",
            ip.address
        );
    }
    // The first releases the attachment's, the second what an old program leased to
    // the container as a whole, as upstream does.
    for _ in 0..2 {
        HostLocal.del(&request).expect("nothing stands in the way of a DEL");
    }
    let (container_id, ifname) = (request.container_id.as_str(), request.ifname.as_str());
    let mine = |holder: &Holder| match holder {
        Holder::Attachment(AttachmentId { container_id: c, ifname: i }) => {
            c == container_id && i == ifname
        }
        Holder::Container(id) => id == container_id,
        _ => false,
    };
    assert!(!held(&root).iter().any(|(_, holder)| mine(holder)), "DEL leaves nothing of its own");
});

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, tail) = rest.split_first()?;
    let (part, tail) = tail.split_at(tail.len().min(usize::from(*len)));
    *rest = tail;
    Some(part)
}

fn held(root: &Path) -> Vec<(std::net::IpAddr, Holder)> {
    let mut found = Vec::new();
    let network = cni::NetworkName::new("net").expect("valid");
    let surveyed = survey(root, &network, &mut |lease| {
        found.push((lease.address, lease.holder.clone()));
        false
    });
    surveyed.expect("a directory of plain files can be read");
    found.retain(|(_, holder)| *holder != Holder::Nobody);
    found
}

fn request(root: &Path) -> Request {
    let conf = format!(
        r#"{{"cniVersion":"1.1.0","name":"net","type":"x","ipam":{{"type":"host-local",
        "subnet":"10.1.0.0/28","dataDir":{root:?},"lockTimeout":5}}}}"#
    );
    Request {
        network: Network::new(conf.into_bytes(), "/".into(), &[]).expect("valid"),
        container_id: ContainerId::new("c1").expect("valid"),
        ifname: IfName::new("eth0").expect("valid"),
        netns: Some("/proc/self/ns/net".into()),
        args: String::new(),
    }
}

fn root() -> PathBuf {
    PathBuf::from(format!("/dev/shm/oxcni-fuzz-leases-{}", std::process::id()))
}
