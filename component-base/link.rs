//! How daemons are linked: the build script of each of them.
//!
//! A position-independent program is full of addresses to be adjusted when it starts. In the usual table they take 24
//! bytes each, close to a megabyte in every daemon that stays mapped for good; packed, the table is a hundredth of that.
//! Contract: the `DT_RELR` form of relocations of the ELF gABI, which glibc reads from 2.36 on.

#![expect(clippy::print_stdout, reason = "a build script speaks to cargo by its output")]

fn main() {
    println!("cargo:rerun-if-changed=../component-base/link.rs");
    let of_target = |what: &str| std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    if of_target("OS") == "linux" && of_target("ENV") == "gnu" {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
