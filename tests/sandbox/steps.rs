//! What a process that is taken over would try. Each is prepared before the sandbox is entered, and tried in it.
#![allow(unsafe_code, reason = "most of this is a bare system call")]

use std::ffi::CString;
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use keyhatch::sys::spawn::CHANNEL_FD;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{self, c_long};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr};
use nix::sys::socket::{connect, recv, recvmsg, send, sendmsg, sendto, shutdown, socket, socketpair};

type Done = Result<(), Errno>;
pub(crate) type Step = Box<dyn FnOnce() -> Done>;

pub(crate) fn tell(done: Done) -> String {
    match done {
        Ok(()) => "done".into(),
        Err(errno) => format!("{errno:?}"),
    }
}

/// Integers, and addresses of what lives as long as the call.
fn call(number: c_long, arguments: [c_long; 6]) -> Result<c_long, Errno> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: each use below passes what its call takes; whatever is behind an address outlives the call.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

fn address<T>(of: &T) -> c_long {
    std::ptr::from_ref(of) as c_long
}

fn text(of: &str) -> CString {
    CString::new(of).unwrap()
}

fn local(port: c_long) -> (Ipv4Addr, u16) {
    (Ipv4Addr::LOCALHOST, u16::try_from(port).unwrap())
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap())
}

fn new_socket(family: AddressFamily, kind: SockType) -> Result<OwnedFd, Errno> {
    socket(family, kind, SockFlag::SOCK_CLOEXEC, None)
}

fn open(path: &CString, flags: libc::c_int) -> Done {
    let at = c_long::from(libc::AT_FDCWD);
    call(libc::SYS_openat, [at, path.as_ptr() as c_long, flags.into(), 0o600, 0, 0]).map(drop)
}

fn map(protection: libc::c_int) -> Result<c_long, Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    call(libc::SYS_mmap, [0, 4096, protection.into(), flags.into(), -1, 0])
}

/// Both ends of a connection, out of the way of the channel's number.
fn pair() -> (OwnedFd, OwnedFd) {
    let (one, other) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty()).unwrap();
    // SAFETY: fcntl has just made this fd, and nothing else owns it.
    let above = |fd: OwnedFd| unsafe { OwnedFd::from_raw_fd(fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(10)).unwrap()) };
    (above(one), above(other))
}

/// Gives standard input away, over this.
fn give(over: RawFd) -> Done {
    let rights = [ControlMessage::ScmRights(&[0])];
    sendmsg::<()>(over, &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None).map(drop)
}

fn take(from: RawFd) -> Done {
    let (mut byte, mut room) = ([0], nix::cmsg_space!(RawFd));
    recvmsg::<()>(from, &mut [IoSliceMut::new(&mut byte)], Some(&mut room), MsgFlags::empty()).map(drop)
}

fn send_to(from: &OwnedFd, path: &str) -> Done {
    sendto(from.as_raw_fd(), b"x", &UnixAddr::new(path)?, MsgFlags::empty()).map(drop)
}

/// In the place of the worker's channel.
fn as_channel(end: &OwnedFd) {
    call(libc::SYS_dup3, [end.as_raw_fd().into(), CHANNEL_FD.into(), 0, 0, 0, 0]).unwrap();
}

pub(crate) fn prepare(name: &str, arguments: &[&str]) -> Step {
    let argument = arguments.first().map_or(String::new(), |argument| (*argument).to_owned());
    let number = argument.parse::<c_long>().unwrap_or(0);
    match name {
        "open" => Box::new(move || open(&text(&argument), libc::O_RDONLY)),
        "list" => Box::new(move || open(&text(&argument), libc::O_RDONLY | libc::O_DIRECTORY)),
        "create" => Box::new(move || open(&text(&argument), libc::O_WRONLY | libc::O_CREAT)),
        "look" => Box::new(move || {
            let (path, stat) = (text(&argument), [0_u64; 64]);
            let at = c_long::from(libc::AT_FDCWD);
            call(libc::SYS_newfstatat, [at, path.as_ptr() as c_long, address(&stat), 0, 0, 0]).map(drop)
        }),
        "tcp" => Box::new(move || TcpStream::connect(local(number)).map(drop).map_err(errno)),
        "listen" => Box::new(move || TcpListener::bind(local(number)).map(drop).map_err(errno)),
        "udp" => Box::new(move || {
            let socket = UdpSocket::bind(local(0)).map_err(errno)?;
            socket.send_to(b"x", local(number)).map(drop).map_err(errno)
        }),
        "fast-open" => Box::new(move || {
            let socket = new_socket(AddressFamily::Inet, SockType::Stream)?;
            let (address_of, port) = local(number);
            let to = libc::sockaddr_in {
                sin_family: 2,
                sin_port: port.to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(address_of).to_be() },
                sin_zero: [0; 8],
            };
            let bytes = [b'x'];
            let list = [socket.as_raw_fd().into(), address(&bytes), 1, libc::MSG_FASTOPEN.into(), address(&to), 16];
            call(libc::SYS_sendto, list).map(drop)
        }),
        "unix" => Box::new(move || {
            let to = UnixAddr::new(argument.as_str())?;
            connect(new_socket(AddressFamily::Unix, SockType::Stream)?.as_raw_fd(), &to)
        }),
        "abstract" => Box::new(move || {
            let to = UnixAddr::new_abstract(argument.as_bytes())?;
            connect(new_socket(AddressFamily::Unix, SockType::Stream)?.as_raw_fd(), &to)
        }),
        "packets" => Box::new(|| new_socket(AddressFamily::Packet, SockType::Raw).map(drop)),
        "out-of-band" => Box::new(|| {
            let (one, other) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
            send(one.as_raw_fd(), b"x", MsgFlags::MSG_OOB)?;
            recv(other.as_raw_fd(), &mut [0], MsgFlags::MSG_OOB).map(drop)
        }),
        "hear-out-of-band" => {
            let (one, other) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty()).unwrap();
            send(one.as_raw_fd(), b"x", MsgFlags::MSG_OOB).unwrap();
            Box::new(move || {
                let heard = recv(other.as_raw_fd(), &mut [0], MsgFlags::MSG_OOB);
                drop(one);
                heard.map(drop)
            })
        }
        // By a socket that was there before, and by one that is made for it.
        "send-to" => {
            let there = socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::empty()).unwrap();
            Box::new(move || send_to(&there.0, &argument))
        }
        "make-datagrams" => {
            Box::new(|| socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::empty()).map(drop))
        }
        "give-a-peer" => {
            let (one, other) = pair();
            Box::new(move || give(one.as_raw_fd()).inspect(|()| drop(other)))
        }
        "take-from-a-peer" => {
            let (one, other) = pair();
            give(one.as_raw_fd()).unwrap();
            Box::new(move || take(other.as_raw_fd()))
        }
        "give-and-take-by-the-channel" => {
            let (one, other) = pair();
            as_channel(&one);
            give(other.as_raw_fd()).unwrap();
            Box::new(move || give(CHANNEL_FD).and_then(|()| take(CHANNEL_FD)).inspect(|()| drop(other)))
        }
        "close-the-channel" => {
            as_channel(&pair().0);
            Box::new(|| call(libc::SYS_close, [CHANNEL_FD.into(), 0, 0, 0, 0, 0]).map(drop))
        }
        "end-a-listener" => {
            let (one, _other) = pair();
            Box::new(move || shutdown(one.as_raw_fd(), Shutdown::Read))
        }
        "execute" => Box::new(|| {
            let path = c"/bin/true";
            let (arguments, none) = ([path.as_ptr(), std::ptr::null()], [std::ptr::null::<libc::c_char>()]);
            let list = [path.as_ptr() as c_long, address(&arguments), address(&none), 0, 0, 0];
            call(libc::SYS_execve, list).map(drop)
        }),
        "fork" => Box::new(|| match call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0, 0, 0])? {
            // The child says nothing.
            0 => call(libc::SYS_exit_group, [0; 6]).map(drop),
            _ => Ok(()),
        }),
        "thread" => Box::new(|| {
            let thread = std::thread::Builder::new().spawn(|| ());
            thread.map_err(errno)?.join().unwrap();
            Ok(())
        }),
        "debug" => Box::new(move || call(libc::SYS_ptrace, [0x4206, number, 0, 0, 0, 0]).map(drop)),
        "read-memory" => {
            let from: usize = arguments[1].parse().unwrap();
            Box::new(move || {
                let bytes = [0_u8; 8];
                let (here, there) = ([bytes.as_ptr().addr(), 8], [from, 8]);
                call(libc::SYS_process_vm_readv, [number, address(&here), 1, address(&there), 1, 0]).map(drop)
            })
        }
        "signal" => Box::new(move || call(libc::SYS_kill, [number, libc::SIGCONT.into(), 0, 0, 0, 0]).map(drop)),
        "io-uring" => Box::new(|| {
            let parameters = [0_u64; 16];
            call(libc::SYS_io_uring_setup, [1, address(&parameters), 0, 0, 0, 0]).map(drop)
        }),
        "new-code" => Box::new(|| map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC).map(drop)),
        "written-code" => Box::new(|| {
            let page = map(libc::PROT_READ | libc::PROT_WRITE)?;
            let executable = libc::PROT_READ | libc::PROT_EXEC;
            call(libc::SYS_mprotect, [page, 4096, executable.into(), 0, 0, 0]).map(drop)
        }),
        "user-namespace" => Box::new(|| call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0, 0]).map(drop)),
        "root" => Box::new(|| call(libc::SYS_setresuid, [0; 6]).map(drop)),
        "name" => Box::new(|| {
            let found = std::net::ToSocketAddrs::to_socket_addrs(&("localhost", 0));
            found.map(drop).map_err(|_| Errno::ENONET)
        }),
        other => panic!("no step {other}"),
    }
}
