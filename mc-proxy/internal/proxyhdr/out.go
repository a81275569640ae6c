package proxyhdr

import (
	"net"
	"net/netip"

	proxyproto "github.com/pires/go-proxyproto"

	"metacircular.net/mc-proxy/internal/route"
)

// TypeHopKey is the TLV that carries the hop key; 0xE0-0xEF are for private use.
const TypeHopKey proxyproto.PP2Type = 0xE4

// KeySize is the length of a hop key.
const KeySize = 32

// Facts are what a header tells the backend.
type Facts struct {
	Client    netip.AddrPort
	Server    netip.AddrPort // the address the client reached
	Authority string         // SNI
	ALPN      string         // the client's first offer
	UniqueID  string
	HopKey    []byte
}

// Header returns the header ahead of a client's stream; nil for ProxyNone.
func Header(v route.ProxyOut, f Facts) ([]byte, error) {
	if v == route.ProxyNone {
		return nil, nil
	}
	client, server := f.Client.Addr().Unmap(), f.Server.Addr().Unmap()
	h := &proxyproto.Header{Version: 1, Command: proxyproto.PROXY, TransportProtocol: proxyproto.TCPv4}
	if client.Is6() || server.Is6() {
		h.TransportProtocol = proxyproto.TCPv6
	}
	h.SourceAddr = tcpAddr(client, f.Client.Port())
	h.DestinationAddr = tcpAddr(server, f.Server.Port())
	if v == route.ProxyV2 {
		h.Version = 2
		var tlvs []proxyproto.TLV
		add := func(t proxyproto.PP2Type, v []byte) {
			if len(v) > 0 {
				tlvs = append(tlvs, proxyproto.TLV{Type: t, Value: v})
			}
		}
		add(proxyproto.PP2_TYPE_ALPN, []byte(f.ALPN))
		add(proxyproto.PP2_TYPE_AUTHORITY, []byte(f.Authority))
		add(proxyproto.PP2_TYPE_UNIQUE_ID, []byte(f.UniqueID))
		add(TypeHopKey, f.HopKey)
		if err := h.SetTLVs(tlvs); err != nil {
			return nil, err
		}
	}
	return h.Format()
}

// Local returns the header of a connection without a client, as a check sends it.
func Local(v route.ProxyOut, key []byte) ([]byte, error) {
	h := &proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}
	switch v {
	case route.ProxyNone:
		return nil, nil
	case route.ProxyV1:
		return []byte("PROXY UNKNOWN\r\n"), nil
	}
	if len(key) > 0 {
		if err := h.SetTLVs([]proxyproto.TLV{{Type: TypeHopKey, Value: key}}); err != nil {
			return nil, err
		}
	}
	return h.Format()
}

func tcpAddr(a netip.Addr, port uint16) *net.TCPAddr {
	return &net.TCPAddr{IP: a.AsSlice(), Port: int(port)}
}
