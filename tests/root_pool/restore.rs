//! Restores, and descriptors that outlive them.

use std::any::Any;
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use windlass::pool::PoolError;
use windlass::pool::owned::RestoreStart;
use windlass::pool::reflink::create_pool;
use windlass::types::{Access, Object, OnLoss};

use crate::root_support::{Sandbox, new_volume, pattern};
use crate::{BLOCK, POOLS, open};

#[test]
fn no_writable_descriptor_of_a_restore_outlives_its_commit() {
    let sandbox = Sandbox::new();
    for fs_type in POOLS {
        let image = sandbox.pool(fs_type);
        create_pool(image.directory()).unwrap();
        let pool = open(image.directory());
        for holder in [Holder::Descriptor, Holder::Mapping, Holder::Socket] {
            let request = new_volume(&format!("{holder:?}"), 1 << 20);
            let RestoreStart::Target(target) = pool.begin_restore(&request, OnLoss::Delete).unwrap() else { panic!("it is new") };
            target.file().write_all_at(&pattern(1, BLOCK), 0).unwrap();
            let held = holder.take(target.file());
            let id = target.close();
            let refused = pool.commit_restore(id);
            assert!(matches!(refused, Err(PoolError::InUse { .. })), "{holder:?} on {fs_type}: {refused:?}");
            assert!(pool.volume(id).unwrap().is_none(), "{holder:?} on {fs_type}");
            drop(held);
            pool.commit_restore(id).unwrap_or_else(|error| panic!("{holder:?} on {fs_type}: {error}"));
            // No lease is left that would keep it from being used.
            pool.attach(Object::Volume(id), Access::ReadWrite).unwrap();
            pool.detach(Object::Volume(id)).unwrap();
        }
    }
}

/// How a process may keep a file open for writing.
#[derive(Debug, Clone, Copy)]
enum Holder {
    Descriptor,
    Mapping,
    Socket,
}

impl Holder {
    /// Keeps `file` open for writing until what is returned is dropped.
    fn take(self, file: &File) -> Box<dyn Any> {
        match self {
            Self::Descriptor => Box::new(file.try_clone().unwrap()),
            Self::Mapping => Box::new(Mapping::of(file)),
            Self::Socket => {
                let (near, far) = UnixStream::pair().unwrap();
                let descriptors = [file.as_raw_fd()];
                let rights = [ControlMessage::ScmRights(&descriptors)];
                sendmsg::<()>(near.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None).unwrap();
                Box::new((near, far))
            }
        }
    }
}

/// A writable mapping of a file, which needs no descriptor of it any more.
struct Mapping(*mut libc::c_void);

impl Mapping {
    #[allow(unsafe_code, reason = "a mapping is what is tested")]
    fn of(file: &File) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping where the kernel chooses; the pointer is only given back to `munmap`.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), BLOCK, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert_ne!(start, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Self(start)
    }
}

impl Drop for Mapping {
    #[allow(unsafe_code, reason = "as for making it")]
    fn drop(&mut self) {
        // SAFETY: the whole mapping that `of` made, which nothing points into.
        assert_eq!(unsafe { libc::munmap(self.0, BLOCK) }, 0);
    }
}
