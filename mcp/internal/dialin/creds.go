package dialin

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
)

// turned are transport credentials for a connection whose TLS handshake is over: they only report it. Both ends use
// them, since on this connection the TLS client is the gRPC server.
type turned struct{}

func report(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	t, ok := c.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return nil, nil, errors.New("not a connection that an agent dialled")
	}
	return c, credentials.TLSInfo{State: t.ConnectionState(), CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}, nil
}

// ClientHandshake implements credentials.TransportCredentials.
func (turned) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return report(c)
}

// ServerHandshake implements credentials.TransportCredentials.
func (turned) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) { return report(c) }

// Info implements credentials.TransportCredentials.
func (turned) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (t turned) Clone() credentials.TransportCredentials { return t }

// OverrideServerName implements credentials.TransportCredentials.
func (turned) OverrideServerName(string) error { return nil }
