//! What a pod sees of names: resolv.conf, its host name, `/etc/hosts`. Pure but for reading and writing the files.

pub mod dns;
pub mod hosts;
