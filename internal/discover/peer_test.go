package discover

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, peer := range []string{
		"10.0.0.7:7950", "[fd00::7]:1", "shop:7950", "shop_1:7950", "_shop:7950", "_shop.internal:7950",
		"_distlock._tcp.shop.default.svc.cluster.local", "_distlock._tcp.shop.default.svc.cluster.local.", "_a._b.c", "_lock-2._tcp.Shop-1.example",
		"_a._b." + strings.Repeat("x", 63), "_x._tcp" + strings.Repeat(".xxxxxxxx", 27) + ".xx.", // 253 bytes and the dot
	} {
		if err := Check(peer); err != nil {
			t.Errorf("%q: %v", peer, err)
		}
	}
	const neither = "neither host:port"
	for peer, want := range map[string]string{
		"": neither, "shop": neither, "10.0.0.7": neither,
		"_x": neither, "_x.": neither, "_x.y": neither, "_x.y.z": neither, "_x._y": neither, "_x._tcp.": neither, "_._tcp.x": neither, "_x._.x": neither, "_": neither,
		"_x._tcp.shop:7950": "has no port: ", "_x._tcp.shop:": "has no port: ", "_x._tcp:1": "has no port: ",
		"_x._tcp..shop": "0 bytes", "_x._tcp.shop..": "0 bytes", "_x._tcp." + strings.Repeat("x", 64): "64 bytes",
		"_x._tcp.sh op": "' ' cannot", "_x._tcp.bücher": "'ü' cannot", "_x._tcp.a/b": "'/' cannot",
		"_x._tcp" + strings.Repeat(".xxxxxxxx", 27) + ".xxx": "253 bytes", "_x._tcp" + strings.Repeat(".x", 200): "255 bytes",
		":7950": "nobody can dial it", "shop:0": "port 0", "fd00::7": "not host:port",
	} {
		if err := Check(peer); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want an error that says %q", peer, err, want)
		}
	}
}
