//! Wire formats only: what the daemons speak to others, and no behaviour.

pub mod cbor;
pub mod codec;
pub mod cri;
pub mod csi;
pub mod deviceplugin;
pub mod dra;
pub mod drahealth;
pub mod kms;
pub mod konnectivity;
pub mod node;
pub mod otlp;
pub mod pluginregistration;
pub mod podresources;
pub mod pods;
pub mod table;
