//go:build tools

package suite

// A test program is no tool of go.mod.
import _ "k8s.io/kubernetes/test/e2e"
