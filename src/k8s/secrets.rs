//! Secrets, each by its name.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use zeroize::Zeroizing;

use super::client::{CALL_DEADLINE, CallFault, Cluster, call};
use crate::agent::secret_source::{SecretData, SecretSource, SecretSourceError};
use crate::types::NamespacedName;

/// The Secrets of a cluster that this process's account may read.
#[derive(Clone)]
pub struct ClusterSecrets {
    cluster: Cluster,
}

impl ClusterSecrets {
    /// Those of this cluster.
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }
}

#[async_trait::async_trait]
impl SecretSource for ClusterSecrets {
    async fn read(&self, secret: &NamespacedName) -> Result<SecretData, SecretSourceError> {
        let api: Api<Secret> = Api::namespaced(self.cluster.client(), secret.namespace.as_str());
        let found = call(CALL_DEADLINE, api.get(secret.name.as_str())).await.map_err(|fault| told(secret, &fault))?;
        let values = found.data.unwrap_or_default();
        Ok(values.into_iter().map(|(key, value)| (key, Zeroizing::new(value.0))).collect())
    }
}

fn told(secret: &NamespacedName, fault: &CallFault) -> SecretSourceError {
    match fault {
        CallFault::NotFound => SecretSourceError::NotFound(secret.clone()),
        CallFault::Forbidden => SecretSourceError::Forbidden(secret.clone()),
        CallFault::Exists | CallFault::Refused(_) | CallFault::Away(_) => {
            SecretSourceError::Unreachable { secret: secret.clone(), reason: fault.text() }
        }
    }
}
