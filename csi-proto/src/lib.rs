//! The CSI protocol.
