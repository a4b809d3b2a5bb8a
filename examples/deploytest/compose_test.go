package deploytest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

const composeFile = root + "/examples/compose/compose.yaml"

func TestCompose(t *testing.T) {
	img, text := theImage(t), read(t, "examples/compose/compose.yaml")
	judge := func(text string) []string {
		p, err := load(t.Context(), text)
		if err != nil {
			return []string{err.Error()}
		}
		return judgeProject(p, img)
	}
	for _, fault := range judge(text) {
		t.Error(fault)
	}
	seen(t, text, []breakage{
		{"  healthcheck:", "  healthchecks:", "healthchecks"},
		{"  read_only: true", "  read_only: true\n  read_only: true", "already defined"},
		{"    start_period: 11m", "    start_period: soon", "start_period"},
		{"DISTLOCK_SECRET: \"${DISTLOCK_SECRET:?make one with openssl rand -base64 32}\"", "OTHER: $DISTLOCK_SECRET", "DISTLOCK_SECRET"},
		{"${DISTLOCK_SECRET:?make", "${SECRET:?make", "DISTLOCK_SECRET"},
		{"    - -join=10m", "    - -insecure\n    - -join=10m", "-insecure"},
		{
			"  shop-3:\n    <<: *shop\n    hostname: shop-3\n    ports: [\"127.0.0.1:8083:8080\"]\n    volumes: [\"shop-3:/data\"]\n",
			"", "no service",
		},
		{"-peers=shop-1:7950,", "-peers=", "no peer"},
		{"shop-2:7950", "shop-2:7951", "port of -bind"},
		{"-expect=3", "-expect=1", "two clusters"},
		{"-grace=20s", "-grace=30s", "killed"},
		{"stop_grace_period: 40s", "stop_grace_period: 10s", "killed"},
		{"start_period: 11m", "start_period: 1m", "health"},
		{"127.0.0.1:8080/readyz", "127.0.0.1:8081/readyz", "health"},
		{"/readyz", "/livez", "health"},
		{"CMD, /shop", "CMD, /bin/shop", "health"},
		{"-check=", "-get=", "does not know"},
		{"-join=10m", "-wait=10m", "does not know"},
		{"\"127.0.0.1:8081:8080\"", "\"127.0.0.1:8081:80\"", "published"},
		{"\"127.0.0.1:8081:8080\"", "\"127.0.0.1:7950:7950\"", "published"},
		{"\"127.0.0.1:8081:8080\"", "\"8081:8080\"", "published"},
		{"    volumes: [\"shop-2:/data\"]", "    volumes: [\"shop-1:/data\"]", "share"},
		{"    volumes: [\"shop-2:/data\"]", "    volumes: [\"shop-4:/data\"]", "shop-4"},
		{"    volumes: [\"shop-2:/data\"]", "    volumes: [\"shop-2:/date\"]", "not below"},
		{"-data=/data/locks", "-data=/data", "not below"},
		{"hostname: shop-2", "hostname: shop-1", "share"},
		{"context: ../..", "context: ..", "build"},
		{"dockerfile: examples/http/Dockerfile", "dockerfile: Dockerfile", "build"},
		{"restart: unless-stopped", "restart: \"no\"", "restart"},
		{"read_only: true", "read_only: false", "file system"},
	}, judge)
}

// load loads text as compose does; variables that are not set are errors.
func load(ctx context.Context, text string) (*types.Project, error) {
	dir, err := filepath.Abs(filepath.Dir(composeFile))
	if err != nil {
		return nil, err
	}
	return loader.LoadWithContext(ctx, types.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(dir, "compose.yaml"), Content: []byte(text)}},
	}, func(o *loader.Options) {
		o.Interpolate.LookupValue = func(name string) (string, bool) { return notSet(name), true }
	})
}

// notSet stands for the value of a variable.
func notSet(name string) string { return "<" + name + " is not set>" }

func judgeProject(p *types.Project, img *image) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	shared := map[string]string{} // of what each has of its own, whose it is
	own := func(what, of string) {
		if other, taken := shared[what]; taken {
			fault("%s and %s share %s", other, of, what)
		}
		shared[what] = of
	}
	for name, s := range p.Services {
		c, more := img.parse(s.Command)
		faults = append(faults, append(more, c.judge(len(p.Services))...)...)
		faults = append(faults, judgeService(s, c, img)...)
		own("hostname "+s.Hostname, name)
		for _, v := range s.Volumes {
			own("volume "+v.Source, name)
		}
		peers := strings.Split(c["peers"], ",")
		for _, peer := range peers {
			if host, _, _ := strings.Cut(peer, ":"); !slices.Contains(p.ServiceNames(), host) {
				fault("%s: there is no service %s", name, host)
			}
		}
		if !slices.ContainsFunc(peers, func(peer string) bool { return strings.HasPrefix(peer, name+":") }) {
			fault("%s is no peer of the others", name)
		}
	}
	return faults
}

func judgeService(s types.ServiceConfig, c command, img *image) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, s.Name+": "+fmt.Sprintf(format, args...)) }
	if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) < c.stopping()+margin {
		fault("it is killed after %v; stopping takes up to %s, and a margin", s.StopGracePeriod, c.stopping())
	}
	if len(s.Ports) != 1 || int(s.Ports[0].Target) != c.port("http") || s.Ports[0].HostIP != "127.0.0.1" {
		fault("published are %v; want the port of -http=%s, on this machine only", s.Ports, c["http"])
	}
	if !slices.ContainsFunc(s.Volumes, func(v types.ServiceVolumeConfig) bool {
		return v.Type == types.VolumeTypeVolume && below(c["data"], v.Target)
	}) {
		fault("-data=%s is not below a volume", c["data"])
	}
	if secret := s.Environment[secretName]; secret == nil || *secret != notSet(secretName) {
		fault("its %s is not the one of who starts it", secretName)
	}
	if !s.ReadOnly {
		fault("the root file system can be written")
	}
	if s.Restart != types.RestartPolicyUnlessStopped {
		fault("it does not restart")
	}
	if s.Build == nil {
		fault("nothing to build")
	} else if path, err := filepath.EvalSymlinks(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil || !sameFile(path, dockerfile) {
		fault("it does not build %s: %v", dockerfile, err)
	}
	return append(faults, judgeHealth(s, c, img)...)
}

// judgeHealth: the check is a program that the image has, of a URL that the shop has, and begins to count after -join.
func judgeHealth(s types.ServiceConfig, c command, img *image) []string {
	h := s.HealthCheck
	if h == nil || len(h.Test) != 3 || h.Test[0] != "CMD" || h.Test[1] != img.name {
		return []string{s.Name + ": no health check by " + img.name}
	}
	check, faults := img.parse(h.Test[2:])
	u, err := url.Parse(check["check"])
	if err != nil || u.Path != "/readyz" || u.Port() != strconv.Itoa(c.port("http")) {
		faults = append(faults, fmt.Sprintf("%s: the health check gets %s; want /readyz of -http=%s", s.Name, check["check"], c["http"]))
	}
	if h.StartPeriod == nil || time.Duration(*h.StartPeriod) < c.seconds("join")+margin {
		faults = append(faults, fmt.Sprintf("%s: health waits %v, the program %s", s.Name, h.StartPeriod, c["join"]))
	}
	return faults
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}
