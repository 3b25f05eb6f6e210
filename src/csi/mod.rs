//! The CSI services over the layers below.
