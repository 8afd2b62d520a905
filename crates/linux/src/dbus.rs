//! The system message bus, as far as a caller of methods needs it: connect, call
//! with texts, read the first values of the answer.
//!
//! Blocking, without introspection, signals or descriptors. The format is that
//! of the D-Bus specification 0.43, "Message Protocol"; the socket is the one
//! its section "Well-known Message Bus Instances" names. The environment is not
//! looked at.

use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use crate::error::{Error, ErrorKind, Result};

/// Where the system bus listens.
pub const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// The longest message the specification allows is 128 MiB; answers to what is
/// asked here have some hundred bytes.
const MESSAGE_MAX: usize = 1 << 20;

/// Message types.
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;

/// Header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A method of an object.
#[derive(Clone, Copy, Debug)]
pub struct Method<'a> {
    /// Who is asked: a bus name.
    pub destination: &'a str,
    /// The object's path.
    pub path: &'a str,
    /// The interface the method belongs to.
    pub interface: &'a str,
    /// The method's name.
    pub member: &'a str,
}

/// The bus itself.
const BUS: Method<'static> = Method {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
    member: "",
};

/// What a method answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It returned. The first value, if it is one of these.
    Returned(Option<Value>),
    /// It refused: the error's name, and the text that came with it.
    Refused {
        /// Such as `org.freedesktop.DBus.Error.ServiceUnknown`.
        name: String,
        /// For people, by convention; some services put their own codes in it.
        text: String,
    },
}

/// A value of a basic type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `b`
    Bool(bool),
    /// `s`, `o` and `g`
    Text(String),
    /// `u`
    U32(u32),
}

/// A connection to the system bus.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    serial: u32,
    /// When all answers have to be there.
    end: Instant,
}

impl Connection {
    /// Connects to [`SYSTEM_BUS`] and introduces this process by its user. All that is
    /// asked of it may take `patience` together.
    ///
    /// # Errors
    ///
    /// [`is_not_found`](Error::is_not_found) when no bus listens there.
    pub fn system(patience: Duration) -> Result<Connection> {
        Connection::open(SYSTEM_BUS, patience)
    }

    /// As [`Connection::system`], at another path.
    ///
    /// # Errors
    ///
    /// [`is_not_found`](Error::is_not_found) when no bus listens there.
    pub fn open(path: &str, patience: Duration) -> Result<Connection> {
        let operation = || format!("connect to message bus {path}");
        let end = Instant::now() + patience;
        let stream = UnixStream::connect(path).map_err(|error| {
            let nobody = error.kind() == IoErrorKind::ConnectionRefused;
            let error = Error::from_io(operation(), &error);
            if nobody { error.of_kind(ErrorKind::NotFound) } else { error }
        })?;
        let mut connection = Connection { stream, serial: 0, end };
        connection.authenticate().map_err(|error| error.operation(operation()))?;
        match connection.call(&Method { member: "Hello", ..BUS }, &[])? {
            Answer::Returned(_) => Ok(connection),
            Answer::Refused { name, text } => {
                Err(Error::protocol(operation(), format!("it refused: {text} ({name})")))
            }
        }
    }

    /// `EXTERNAL`: the kernel tells the bus who this is.
    fn authenticate(&mut self) -> Result<()> {
        let user: String =
            geteuid().to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
        self.write(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.read(&mut byte)?;
            line.push(byte[0]);
            if line.len() > 1024 {
                break;
            }
        }
        if !line.starts_with(b"OK ") {
            let said = String::from_utf8_lossy(&line).trim_end().to_owned();
            return Err(Error::protocol("", format!("it does not know this user: {said:?}")));
        }
        self.write(b"BEGIN\r\n")
    }

    /// Calls a method whose arguments are texts, and waits for its answer.
    ///
    /// # Errors
    ///
    /// The bus went away, or the patience is at its end
    /// ([`is_timed_out`](Error::is_timed_out)).
    pub fn call(&mut self, method: &Method, arguments: &[&str]) -> Result<Answer> {
        let operation = || format!("call {} of {}", method.member, method.destination);
        self.try_call(method, arguments).map_err(|error| error.operation(operation()))
    }

    /// Whether somebody has a name on the bus.
    ///
    /// # Errors
    ///
    /// Those of [`Connection::call`].
    pub fn has_owner(&mut self, name: &str) -> Result<bool> {
        let answer = self.call(&Method { member: "NameHasOwner", ..BUS }, &[name])?;
        Ok(answer == Answer::Returned(Some(Value::Bool(true))))
    }

    fn try_call(&mut self, method: &Method, arguments: &[&str]) -> Result<Answer> {
        self.serial += 1;
        let message = encode(self.serial, method, arguments);
        self.write(&message)?;
        loop {
            let message = self.receive()?;
            // Signals to this connection, such as the name it got, come between.
            if let Some((serial, answer)) = decode(&message)
                && serial == self.serial
            {
                return Ok(answer);
            }
        }
    }

    fn receive(&mut self) -> Result<Vec<u8>> {
        let mut message = vec![0; 16];
        self.read(&mut message)?;
        let reader = Reader { bytes: &message, at: 0, big: message[0] == b'B' };
        let body = reader.u32_at(4);
        let fields = reader.u32_at(12);
        let len = body.zip(fields).and_then(|(body, fields)| {
            let fields = usize::try_from(fields).ok()?.checked_next_multiple_of(8)?;
            usize::try_from(body).ok()?.checked_add(fields)?.checked_add(16)
        });
        let len = len
            .filter(|len| *len <= MESSAGE_MAX)
            .ok_or_else(|| Error::protocol("", "a message is longer than any it could send"))?;
        message.resize(len, 0);
        let (_, rest) = message.split_at_mut(16);
        self.read(rest)?;
        Ok(message)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let left = self.left()?;
        let written =
            self.stream.set_write_timeout(Some(left)).and_then(|()| self.stream.write_all(bytes));
        written.map_err(|error| in_time(&error))
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < bytes.len() {
            let left = self.left()?;
            let limited = self.stream.set_read_timeout(Some(left));
            match limited.and_then(|()| self.stream.read(&mut bytes[filled..])) {
                Ok(0) => return Err(Error::protocol("", "the bus closed the connection")),
                Ok(read) => filled += read,
                Err(error) if error.kind() == IoErrorKind::Interrupted => {}
                Err(error) => return Err(in_time(&error)),
            }
        }
        Ok(())
    }

    /// Of the patience; never zero, which would be without a limit.
    fn left(&self) -> Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Error::timed_out("")) } else { Ok(left) }
    }
}

fn in_time(error: &std::io::Error) -> Error {
    match error.kind() {
        IoErrorKind::WouldBlock | IoErrorKind::TimedOut => Error::timed_out(""),
        _ => Error::from_io("", error),
    }
}

/// A method call, in little-endian order.
fn encode(serial: u32, method: &Method, arguments: &[&str]) -> Vec<u8> {
    let mut body = Writer::default();
    for argument in arguments {
        body.text(argument);
    }
    let mut message = Writer::default();
    message.bytes.extend([b'l', METHOD_CALL, 0, 1]);
    message.u32(u32::try_from(body.bytes.len()).unwrap_or(u32::MAX));
    message.u32(serial);
    let mut fields = Writer { bytes: Vec::new() };
    for (code, kind, value) in [
        (PATH, b'o', method.path),
        (INTERFACE, b's', method.interface),
        (MEMBER, b's', method.member),
        (DESTINATION, b's', method.destination),
    ] {
        fields.align(8);
        fields.bytes.extend([code, 1, kind, 0]);
        fields.text(value);
    }
    if !arguments.is_empty() {
        fields.align(8);
        fields.bytes.extend([SIGNATURE, 1, b'g', 0]);
        fields.bytes.push(u8::try_from(arguments.len()).unwrap_or(u8::MAX));
        fields.bytes.extend(arguments.iter().map(|_| b's'));
        fields.bytes.push(0);
    }
    // The fields start at 16, so that they may be aligned by themselves.
    message.u32(u32::try_from(fields.bytes.len()).unwrap_or(u32::MAX));
    message.bytes.extend(fields.bytes);
    message.align(8);
    message.bytes.extend(body.bytes);
    message.bytes
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, number: u32) {
        self.align(4);
        self.bytes.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }
}

/// The serial of the call it answers, and the answer; `None` for any other
/// message.
pub(crate) fn decode(message: &[u8]) -> Option<(u32, Answer)> {
    let big = *message.first()? == b'B';
    let kind = *message.get(1)?;
    let mut reader = Reader { bytes: message, at: 12, big };
    let fields_end = usize::try_from(reader.u32()?).ok()?.checked_add(16)?;
    let (mut serial, mut name, mut signature) = (None, String::new(), String::new());
    while reader.at < fields_end {
        reader.align(8);
        let code = reader.u8()?;
        let value_kind = reader.signature()?;
        match (code, reader.value(value_kind.as_bytes().first().copied()?)?) {
            (REPLY_SERIAL, Value::U32(number)) => serial = Some(number),
            (ERROR_NAME, Value::Text(text)) => name = text,
            (SIGNATURE, Value::Text(text)) => signature = text,
            _ => {}
        }
    }
    reader.at = fields_end.checked_next_multiple_of(8)?;
    let first = signature.bytes().next().and_then(|kind| reader.value(kind));
    let answer = match (kind, first) {
        (METHOD_RETURN, first) => Answer::Returned(first),
        (ERROR, Some(Value::Text(text))) => Answer::Refused { name, text },
        (ERROR, _) => Answer::Refused { name, text: String::new() },
        _ => return None,
    };
    Some((serial?, answer))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn u8(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn u32_at(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4);
        let number = self.u32_at(self.at)?;
        self.at += 4;
        Some(number)
    }

    fn text(&mut self, len: usize) -> Option<String> {
        let end = self.at.checked_add(len)?;
        let text = std::str::from_utf8(self.bytes.get(self.at..end)?).ok()?.to_owned();
        // It ends with a NUL.
        self.at = end + 1;
        Some(text)
    }

    fn signature(&mut self) -> Option<String> {
        let len = usize::from(self.u8()?);
        self.text(len)
    }

    fn value(&mut self, kind: u8) -> Option<Value> {
        match kind {
            b's' | b'o' => {
                let len = usize::try_from(self.u32()?).ok()?;
                self.text(len).map(Value::Text)
            }
            b'g' => self.signature().map(Value::Text),
            b'u' => self.u32().map(Value::U32),
            b'b' => self.u32().map(|number| Value::Bool(number != 0)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const METHOD: Method<'static> =
        Method { destination: "a.b", path: "/c", interface: "d.e", member: "F" };

    /// What a service would send back.
    fn answer(kind: u8, serial: u32, fields: &[(u8, u8, &str)], body: &[&str]) -> Vec<u8> {
        let mut message = encode(9, &METHOD, body);
        let body_len = message[4..8].to_vec();
        let body_bytes = u32::from_le_bytes(body_len.clone().try_into().expect("4 bytes"));
        let body = message.split_off(message.len() - body_bytes as usize);
        let mut header = Writer { bytes: vec![b'l', kind, 0, 1] };
        header.bytes.extend(body_len);
        header.u32(77);
        let mut list = Writer::default();
        list.bytes.extend([REPLY_SERIAL, 1, b'u', 0]);
        list.u32(serial);
        for (code, kind, value) in fields {
            list.align(8);
            list.bytes.extend([*code, 1, *kind, 0]);
            match kind {
                b'g' => {
                    list.bytes.push(u8::try_from(value.len()).expect("short"));
                    list.bytes.extend(value.as_bytes());
                    list.bytes.push(0);
                }
                _ => list.text(value),
            }
        }
        header.u32(u32::try_from(list.bytes.len()).expect("short"));
        header.bytes.extend(list.bytes);
        header.align(8);
        header.bytes.extend(body);
        header.bytes
    }

    #[test]
    fn answers_are_told_apart() {
        let text = answer(METHOD_RETURN, 5, &[(SIGNATURE, b'g', "s")], &[":1.7"]);
        assert_eq!(decode(&text), Some((5, Answer::Returned(Some(Value::Text(":1.7".into()))))));
        let nothing = answer(METHOD_RETURN, 6, &[], &[]);
        assert_eq!(decode(&nothing), Some((6, Answer::Returned(None))));
        let fields = [(ERROR_NAME, b's', "x.Failed"), (SIGNATURE, b'g', "s")];
        let refused = answer(ERROR, 7, &fields, &["no"]);
        let expected = Answer::Refused { name: "x.Failed".into(), text: "no".into() };
        assert_eq!(decode(&refused), Some((7, expected)));
        assert_eq!(decode(&answer(4, 8, &[], &[])), None);
        assert_eq!(decode(&encode(1, &METHOD, &["x"])), None);
    }

    #[test]
    fn a_bus_that_is_not_there() {
        let error = Connection::open("/run/no-such-bus", Duration::from_secs(9))
            .expect_err("nobody listens");
        assert!(error.is_not_found(), "{error}");
        assert!(error.to_string().starts_with("connect to message bus /run/no-such-bus: "));
    }

    /// One that says nothing, and one that says a little again and again.
    #[test]
    fn a_bus_that_never_answers_is_waited_for_once() {
        for says in ["", "O"] {
            let folder = std::env::temp_dir();
            let path = folder.join(format!("silent-bus-{}-{}", std::process::id(), says.len()));
            let path = path.to_str().expect("a plain name");
            let listener = std::os::unix::net::UnixListener::bind(path).expect("a new name");
            let bus = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("somebody comes");
                let mut heard = [0; 1 << 10];
                let pace = Duration::from_millis(20);
                stream.set_read_timeout(Some(pace)).expect("not zero");
                // Until the other end has given up.
                while stream.read(&mut heard).map_or(true, |read| read > 0) {
                    if stream.write_all(says.as_bytes()).is_err() {
                        break;
                    }
                }
            });
            let started = Instant::now();
            let error = Connection::open(path, Duration::from_millis(300)).expect_err("no answer");
            assert!(error.is_timed_out(), "{error}");
            assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
            bus.join().expect("it ends with the connection");
            std::fs::remove_file(path).expect("it is ours");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
