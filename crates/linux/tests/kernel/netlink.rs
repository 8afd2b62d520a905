use linux::addr::Addr;
use linux::netlink::{Attrs, Message};
use linux::{ErrorKind, Result, Socket, addr, link};

use crate::host::{in_new_namespace, tool, veth_pair};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWLINKPROP: u16 = 108;
const RTM_GETLINK: u16 = 18;

fn lo(text: &str) -> Addr {
    Addr::new(1, text.parse().unwrap())
}

#[test]
fn a_batch_names_the_message_that_was_refused() {
    in_new_namespace(|socket| {
        let error = socket
            .batch([
                lo("10.1.0.1/24").add_message(),
                lo("10.1.0.1/24").add_message(),
                lo("10.2.0.1/24").add_message(),
            ])
            .unwrap_err();
        assert!(error.is_exists(), "{error}");
        assert_eq!(error.batch_index(), Some(1));
        assert!(
            error
                .to_string()
                .starts_with("add address 10.1.0.1/24 on link with index 1: file exists"),
            "{error}"
        );
        // The kernel goes on behind an error.
        assert!(tool("ip addr show dev lo").contains("10.2.0.1/24"));
    });
}

#[test]
fn a_batch_larger_than_the_receive_queue_is_answered_whole() {
    in_new_namespace(|socket| {
        // 208 KiB of queue hold about 270 acknowledgements.
        let messages: Vec<Message> = (0..1000_u16)
            .map(|i| {
                let [high, low] = i.to_be_bytes();
                lo(&format!("10.{high}.{low}.1/32")).add_message()
            })
            .collect();
        let outcomes = socket.batch_each(messages.clone()).unwrap();
        assert_eq!(outcomes.len(), 1000);
        assert!(outcomes.iter().all(Result::is_ok));
        // And a list that takes several datagrams is complete.
        assert_eq!(addr::list(socket, None, Some(1)).unwrap().len(), 1000);
        // Errors carry the refused message, which makes them larger still.
        let again = socket.batch_each(messages).unwrap();
        assert!(again.iter().all(|outcome| outcome.as_ref().is_err_and(|e| e.is_exists())));
    });
}

#[test]
fn the_kernels_own_words_are_kept() {
    in_new_namespace(|socket| {
        let mut message = Message::new(RTM_NEWROUTE, 0x600, "add nonsense");
        // IPv4, 10.0.0.1/24, table main, protocol boot, scope link, kind unicast.
        message.put(&[2, 24, 0, 0, 254, 3, 253, 1, 0, 0, 0, 0]).attr(1, &[10, 0, 0, 1]);
        let error = socket.request(message).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let words = "Invalid prefix for given prefix length";
        assert_eq!(error.kernel_message(), Some(words));
        assert_eq!(error.to_string(), format!("add nonsense: invalid argument ({words})"));
    });
}

#[test]
fn an_oversized_message_is_refused_before_sending() {
    in_new_namespace(|socket| {
        let mut message = Message::new(RTM_NEWADDR, 0, "send too much");
        message.put(&[0; 8]).attr(1, &vec![0; 70_000]);
        let error = socket.request(message).unwrap_err();
        assert_eq!(error.to_string(), "send too much: message too long");
    });
}

#[test]
fn a_reply_that_parses_to_nothing_is_an_error() {
    in_new_namespace(|socket| {
        let mut message = Message::new(RTM_GETLINK, 0, "look");
        message.put(&[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let error = socket.get(message, |_| None::<()>).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        // The socket is still in step.
        assert_eq!(link::get_by_index(socket, 1).unwrap().name, "lo");
    });
}

/// So many addresses on loopback that listing them takes several datagrams.
fn many_addresses(socket: &Socket) {
    let messages: Vec<Message> = (0..1000_u16)
        .map(|i| {
            let [high, low] = i.to_be_bytes();
            lo(&format!("10.{high}.{low}.1/32")).add_message()
        })
        .collect();
    socket.batch(messages).unwrap();
}

/// Lists the addresses in text form, and runs `meanwhile` whenever the first
/// part of the list has arrived.
fn list_while(socket: &Socket, mut meanwhile: impl FnMut()) -> Result<Vec<String>> {
    let mut message = Message::new(RTM_GETADDR, 0, "list addresses");
    message.put(&[2, 0, 0, 0, 0, 0, 0, 0]);
    socket.dump(message, |reply| {
        let ip = Attrs::after(reply.body, 8).find(2)?.ip()?.to_string();
        if ip == "10.0.0.1" {
            meanwhile();
        }
        Some(ip)
    })
}

#[test]
fn a_list_that_changed_while_it_was_read_is_read_again() {
    in_new_namespace(|socket| {
        many_addresses(socket);
        let other = Socket::route().unwrap();
        let mut attempts = 0;
        let list = list_while(socket, || {
            attempts += 1;
            if attempts == 1 {
                // Those behind it move up: the next part would leave one out.
                addr::delete(&other, &lo("10.0.1.1/32")).unwrap();
            }
        });
        let list = list.unwrap();
        assert_eq!(attempts, 2);
        assert_eq!(list.len(), 999);
        assert!(!list.contains(&"10.0.1.1".to_owned()), "as it was before the change");
    });
}

#[test]
fn a_list_that_never_holds_still_is_an_error() {
    in_new_namespace(|socket| {
        many_addresses(socket);
        let other = Socket::route().unwrap();
        let flapping = lo("10.99.0.1/32");
        let mut attempts = 0;
        let list = list_while(socket, || {
            attempts += 1;
            addr::add(&other, &flapping).unwrap();
            addr::delete(&other, &flapping).unwrap();
        });
        let error = list.unwrap_err();
        assert_eq!((error.kind(), attempts), (ErrorKind::Protocol, 100));
        assert_eq!(error.to_string(), "list addresses: the list kept changing while it was read");
        // The socket is still in step.
        assert_eq!(addr::list(socket, None, Some(1)).unwrap().len(), 1000);
    });
}

#[test]
fn every_reply_of_the_kernel_walks() {
    in_new_namespace(|socket| {
        veth_pair(socket, "a", "b");
        let mut message = Message::new(RTM_GETLINK, 0, "list");
        message.put(&[0; 16]);
        let names = socket
            .dump(message, |reply| Some(Attrs::after(reply.body, 16).find(3)?.str()?.to_owned()))
            .unwrap();
        assert_eq!(names.len(), link::list(socket).unwrap().len());
        assert!(names.iter().any(|name| name == "a"), "{names:?}");
    });
}

#[test]
fn an_answer_larger_than_the_buffer_comes_whole() {
    in_new_namespace(|socket| {
        let (a, _) = veth_pair(socket, "a", "b");
        // 300 names of 127 bytes: 39 KiB, where the buffer has 32.
        let names: Vec<String> = (0..300).map(|i| format!("{i:0>127}")).collect();
        let messages: Vec<Message> = names
            .iter()
            .map(|name| {
                let mut message = Message::new(RTM_NEWLINKPROP, 0x600, "add name");
                let mut header = [0; 16];
                header[4..8].copy_from_slice(&a.index.to_ne_bytes());
                message.put(&header).nest(52, |list| {
                    list.attr_str(53, name);
                });
                message
            })
            .collect();
        socket.batch(messages).unwrap();
        assert_eq!(link::get(socket, &names[7]).unwrap().alt_names.len(), 300);
        let list = link::list(socket).unwrap();
        let listed = list.iter().find(|link| link.name == "a").unwrap();
        assert_eq!(listed.alt_names.len(), 300);
        assert_eq!(link::get(socket, "b").unwrap().link, Some(a.index));
    });
}
