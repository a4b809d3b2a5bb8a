package deploytest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const namespace = "somewhere"

func TestKubernetes(t *testing.T) {
	img, policy := theImage(t), read(t, "examples/kubernetes/networkpolicy.yaml")
	for _, c := range []struct {
		file      string
		breakages []breakage
	}{
		{"statefulset.yaml", slices.Concat(ofBoth, ofStatefulSet)},
		{"deployment.yaml", slices.Concat(ofBoth, ofDeployment)},
	} {
		t.Run(c.file, func(t *testing.T) {
			judge := func(text string) []string {
				m, err := decode(text)
				if err != nil {
					return []string{err.Error()}
				}
				return m.judge(img)
			}
			text := read(t, "examples/kubernetes/"+c.file) + "\n---\n" + policy
			for _, fault := range judge(text) {
				t.Error(fault)
			}
			seen(t, text, c.breakages, judge)
		})
	}
}

var ofBoth = []breakage{
	{"clusterIP: None", "clusterIp: None", `unknown field "spec.clusterIp"`},
	{"clusterIP: None", "clusterIP: None\n  clusterIP: None", "already set"},
	{"kind: PodDisruptionBudget", "kind: PodDisruption", "no kind"},
	{"  clusterIP: None", "  type: ClusterIP", "not headless"},
	{"  publishNotReadyAddresses: true", "  publishNotReadyAddresses: false", "before they are ready"},
	{
		"    app.kubernetes.io/name: shop\n  ports:\n    - name: locks",
		"    app.kubernetes.io/name: shops\n  ports:\n    - name: locks", "does not select",
	},
	{"      targetPort: locks\n", "      targetPort: lock\n", "no container port"},
	{"      targetPort: locks-udp\n      protocol: UDP", "      targetPort: locks-udp", "no container port"},
	{"      port: 7950\n      targetPort: locks\n", "      port: 7951\n      targetPort: locks\n", "not 7950"},
	{"      targetPort: http", "      targetPort: 8081", "no container port"},
	{"maxUnavailable: 1 #", "maxUnavailable: 2 #", "budget"},
	{
		"  selector:\n    matchLabels:\n      app.kubernetes.io/name: shop\n  template",
		"  selector:\n    matchLabels:\n      app: shop\n  template", "does not select",
	},
	{
		"    metadata:\n      labels:\n        app.kubernetes.io/name: shop",
		"    metadata:\n      labels:\n        app.kubernetes.io/name: stop", "does not select",
	},
	{"terminationGracePeriodSeconds: 45", "terminationGracePeriodSeconds: 35", "killed"},
	{"-grace=20s", "-grace=30s", "killed"},
	{"seconds: 5", "seconds: 15", "killed"},
	{"              sleep: #", "              exec: #", `unknown field`},
	{"seconds: 5", "seconds: 0", "preStop"},
	{"-expect=3", "-expect=1", "two clusters"},
	{"  replicas: 3", "  replicas: 6", "two clusters"},
	{"name: DISTLOCK_SECRET #", "name: DISTLOCK_SECRETS #", "DISTLOCK_SECRET"},
	{"                secretKeyRef:\n                  name: shop-locks\n                  key: secret", "                configMapKeyRef:\n                  name: shop-locks\n                  key: secret", "DISTLOCK_SECRET"},
	{"            - -expect=3 #", "            - -insecure\n            - -expect=3 #", "-insecure"},
	{"-join=10m", "-join=10", "does not know"},
	{"-join=10m", "-join=30s", "may never meet"},
	{"-join=10m", "-join=11m", "startup"},
	{"-bind=:7950", "-bind=127.0.0.1:7950", "every address"},
	{"-bind=:7950", "-bind=:7951", "no container port"},
	{"-http=:8080", "-http=:8081", "no container port"},
	{"svc:7950", "svc", "port of -bind"},
	{"shop-locks.$(POD_NAMESPACE)", "shop.$(POD_NAMESPACE)", "not headless"},
	{"shop-locks.$(POD_NAMESPACE)", "shop-locks.$(NAMESPACE)", "not set"},
	{"shop-locks.$(POD_NAMESPACE)", "shop-lock.$(POD_NAMESPACE)", "no Service"},
	{"fieldPath: metadata.name\n", "fieldPath: metadata.names\n", "not set"},
	{"fieldPath: metadata.namespace", "fieldPath: metadata.name", "no Service"},
	{"-name=$(POD_NAME)", "-name=shop", "all have the name"},
	{"containerPort: 7950\n              protocol: UDP", "containerPort: 7950\n              protocol: SCTP", "no container port"},
	{"              path: /readyz", "              path: /ready", "readiness"},
	{"              path: /readyz\n              port: http", "              path: /readyz\n              port: web", "readiness"},
	{"          livenessProbe:", "          livenessprobe:", "unknown field"},
	{
		"path: /livez\n              port: http\n            periodSeconds: 10",
		"path: /readyz\n              port: http\n            periodSeconds: 10", "liveness",
	},
	{"failureThreshold: 330", "failureThreshold: 30", "startup"},
	{"              memory: 256Mi #", "              cpu: 100m\n              memory: 256Mi #", "CPU"},
	{"memory: 64Mi", "memory: 64 Mi", "quantities"},
	{"readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "file system"},
	{"runAsUser: 65532", "runAsUser: 1000", "user"},
	{"runAsNonRoot: true", "runAsNonRoot: false", "user"},
	{"drop: [ALL]", "drop: [NET_RAW]", "capabilities"},
	{"        - topologyKey: kubernetes.io/hostname", "        - topologyKey: kubernetes.io/host", "spread"},
	{
		"  podSelector:\n    matchLabels:\n      app.kubernetes.io/name: shop",
		"  podSelector:\n    matchLabels:\n      app.kubernetes.io/name: stop", "does not select",
	},
	{
		"        - podSelector:\n            matchLabels:\n              app.kubernetes.io/name: shop",
		"        - podSelector: {}", "only shops",
	},
	{
		"    - from: # the locks: shops of this namespace only\n        - podSelector:",
		"    - from:\n        - namespaceSelector: {}\n          podSelector:", "only shops",
	},
	{"        - port: 7950\n          protocol: UDP\n", "", "NetworkPolicy opens"},
	{
		"        - port: 7950\n          protocol: UDP\n",
		"        - port: 7950\n          endPort: 7960\n          protocol: UDP\n", "NetworkPolicy opens",
	},
	{"        - port: 8080\n", "        - port: 7950\n", "NetworkPolicy opens"},
	{"        - port: 8080\n", "        - port: 8080\n        - port: 22\n", "NetworkPolicy opens"},
	{"policyTypes: [Ingress]", "policyTypes: [Egress]", "NetworkPolicy"},
}

var ofStatefulSet = []breakage{
	{"serviceName: shop-locks", "serviceName: shop", "serviceName"},
	{"podManagementPolicy: Parallel", "podManagementPolicy: OrderedReady", "one after the other"},
	{"type: RollingUpdate", "type: OnDelete", "one by one"},
	{"            - name: data\n              mountPath", "            - name: date\n              mountPath", "no volume"},
	{"mountPath: /data", "mountPath: /date", "not below"},
	{"-data=/data/locks", "-data=/data", "not below"},
	{"            - -data=/data/locks", "            # ", "not below"},
	{"fsGroup: 65532", "fsGroup: 0", "fsGroup"},
	{"accessModes: [ReadWriteOnce]", "accessModes: [ReadWriteMany]", "one pod's"},
}

var ofDeployment = []breakage{
	{"maxSurge: 1", "maxSurge: 2", "one by one"},
	{"maxUnavailable: 0", "maxUnavailable: 1", "one by one"},
	{"minReadySeconds: 10", "minReadySeconds: 0", "no pause"},
	{"-expect=3", "-expect=2", "two clusters"},
	{"-expect=3", "-expect=3\n            - -data=/data/locks", "no volume"},
}

// judge says what is wrong with m for pods of img.
func (m *manifests) judge(img *image) []string {
	w, faults := m.workload()
	if len(w.template.Spec.Containers) != 1 {
		return append(faults, "the pod has not one container")
	}
	j := &judge{manifests: m, workload: w, pod: w.template.Spec, container: w.template.Spec.Containers[0], faults: faults}
	var more []string
	j.command, more = img.parse(j.args())
	j.faults = append(j.faults, append(more, j.command.judge(w.together)...)...)
	j.secret()
	j.names()
	j.locksService()
	j.servicePorts()
	j.budget()
	j.policy()
	j.probes()
	j.times()
	j.volumes()
	j.security(img)
	j.spread()
	return j.faults
}

type judge struct {
	*manifests
	workload
	pod       corev1.PodSpec
	container corev1.Container
	command   command
	faults    []string
}

func (j *judge) fault(format string, args ...any) {
	j.faults = append(j.faults, fmt.Sprintf(format, args...))
}

// args are the container's, with what the kubelet puts in for a pod.
func (j *judge) args() []string {
	env := map[string]string{}
	for _, e := range j.container.Env {
		switch {
		case e.ValueFrom == nil:
			env[e.Name] = e.Value
		case e.ValueFrom.FieldRef != nil && e.ValueFrom.FieldRef.FieldPath == "metadata.name":
			env[e.Name] = "a-pod"
		case e.ValueFrom.FieldRef != nil && e.ValueFrom.FieldRef.FieldPath == "metadata.namespace":
			env[e.Name] = namespace
		}
	}
	args := slices.Clone(j.container.Args)
	for i := range args {
		for name, value := range env {
			args[i] = strings.ReplaceAll(args[i], "$("+name+")", value)
		}
		if strings.Contains(args[i], "$(") {
			j.fault("%s: a variable is not set", args[i])
		}
	}
	return args
}

// secret: the shops have one, and it stands in a Secret.
func (j *judge) secret() {
	if !slices.ContainsFunc(j.container.Env, func(e corev1.EnvVar) bool {
		return e.Name == secretName && e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil
	}) {
		j.fault("no %s from a Secret: strangers are let in, or nobody", secretName)
	}
}

func (j *judge) names() {
	if !strings.Contains(j.command["name"], "a-pod") {
		j.fault("all have the name %q", j.command["name"])
	}
	j.selects("the workload", j.selector)
	for _, s := range j.services {
		j.selects("Service "+s.Name, &metav1.LabelSelector{MatchLabels: s.Spec.Selector})
	}
	for _, b := range j.budgets {
		j.selects("PodDisruptionBudget "+b.Name, b.Spec.Selector)
	}
	for _, p := range j.policies {
		j.selects("NetworkPolicy "+p.Name, &p.Spec.PodSelector)
	}
}

func (j *judge) selects(who string, selector *metav1.LabelSelector) {
	if !j.isPods(selector) {
		j.fault("%s does not select the pods", who)
	}
}

// isPods says that selector means these pods, and not simply all.
func (j *judge) isPods(selector *metav1.LabelSelector) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && !s.Empty() && s.Matches(labels.Set(j.template.Labels))
}

// locksService: the peers are a headless Service's name, which resolves to all pods before they are ready.
func (j *judge) locksService() {
	host, _, _ := strings.Cut(j.command["peers"], ":")
	name, in, _ := strings.Cut(host, ".")
	at := slices.IndexFunc(j.services, func(s *corev1.Service) bool { return s.Name == name })
	if at < 0 || in != namespace+".svc" {
		j.fault("-peers=%s: no Service of this namespace has that name", j.command["peers"])
		return
	}
	s := j.services[at]
	if s.Spec.ClusterIP != corev1.ClusterIPNone {
		j.fault("Service %s is not headless: its name does not resolve to the pods", name)
	}
	if !s.Spec.PublishNotReadyAddresses {
		j.fault("Service %s has no pods before they are ready, and they are not before they have found each other", name)
	}
	for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
		if !slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool {
			return int(p.Port) == j.command.port("bind") && protocolOf(p.Protocol) == protocol
		}) {
			j.fault("a port of Service %s for %s is not %d", name, protocol, j.command.port("bind"))
		}
		if !j.listens(intstr.FromInt(j.command.port("bind")), protocol) {
			j.fault("-bind=%s: no container port for %s", j.command["bind"], protocol)
		}
	}
	if !j.listens(intstr.FromInt(j.command.port("http")), corev1.ProtocolTCP) {
		j.fault("-http=%s: no container port", j.command["http"])
	}
	if j.stateful != nil && j.stateful.Spec.ServiceName != name {
		j.fault("serviceName is %s and the peers are at %s", j.stateful.Spec.ServiceName, name)
	}
}

// listens says that the container has that port, by its name or number.
func (j *judge) listens(port intstr.IntOrString, protocol corev1.Protocol) bool {
	return slices.ContainsFunc(j.container.Ports, func(p corev1.ContainerPort) bool {
		same := p.Name == port.StrVal
		if port.Type == intstr.Int {
			same = p.ContainerPort == port.IntVal
		}
		return same && protocolOf(p.Protocol) == protocol
	})
}

func protocolOf(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

func (j *judge) servicePorts() {
	if len(j.services) != 2 {
		j.fault("%d Services; want one for the locks and one for the customers", len(j.services))
	}
	for _, s := range j.services {
		for _, p := range s.Spec.Ports {
			if !j.listens(p.TargetPort, protocolOf(p.Protocol)) {
				j.fault("Service %s, port %s: no container port %s for %s", s.Name, p.Name, p.TargetPort.String(), protocolOf(p.Protocol))
			}
		}
	}
}

func (j *judge) budget() {
	if len(j.budgets) != 1 || j.budgets[0].Spec.MaxUnavailable == nil || j.budgets[0].Spec.MaxUnavailable.IntValue() != 1 {
		j.fault("no budget of one pod")
	}
}

// policy: from anywhere to the shop's port, from shops to the locks' port, and nothing else.
func (j *judge) policy() {
	if len(j.policies) != 1 || !slices.Equal(j.policies[0].Spec.PolicyTypes, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}) {
		j.fault("not one NetworkPolicy for what comes in")
		return
	}
	var open []string
	for _, rule := range j.policies[0].Spec.Ingress {
		from := "anybody"
		if len(rule.From) > 0 {
			from = "shops"
			for _, peer := range rule.From {
				if peer.NamespaceSelector != nil || peer.IPBlock != nil || peer.PodSelector == nil || !j.isPods(peer.PodSelector) {
					j.fault("NetworkPolicy: not only shops reach the locks")
				}
			}
		}
		for _, p := range rule.Ports {
			to := fmt.Sprint(p.Port)
			if p.EndPort != nil {
				to += fmt.Sprint("-", *p.EndPort)
			}
			protocol := corev1.ProtocolTCP
			if p.Protocol != nil {
				protocol = *p.Protocol
			}
			open = append(open, fmt.Sprintf("%s to %s for %s", to, from, protocol))
		}
	}
	locks := j.command.port("bind")
	want := []string{
		fmt.Sprintf("%d to shops for TCP", locks), fmt.Sprintf("%d to shops for UDP", locks),
		fmt.Sprintf("%d to anybody for TCP", j.command.port("http")),
	}
	slices.Sort(open)
	slices.Sort(want)
	if !slices.Equal(open, want) {
		j.fault("NetworkPolicy opens %q; want %q", open, want)
	}
}

func (j *judge) probes() {
	for _, p := range []struct {
		what, path string
		probe      *corev1.Probe
	}{
		{"startup", "/livez", j.container.StartupProbe},
		{"readiness", "/readyz", j.container.ReadinessProbe},
		{"liveness", "/livez", j.container.LivenessProbe},
	} {
		if p.probe == nil || p.probe.HTTPGet == nil || p.probe.HTTPGet.Path != p.path || !j.listens(p.probe.HTTPGet.Port, corev1.ProtocolTCP) ||
			!j.isHTTP(p.probe.HTTPGet.Port) {
			j.fault("the %s probe does not get %s from -http=%s", p.what, p.path, j.command["http"])
		}
	}
}

// isHTTP says that port is the shop's.
func (j *judge) isHTTP(port intstr.IntOrString) bool {
	for _, p := range j.container.Ports {
		if p.Name == port.StrVal {
			port = intstr.FromInt32(p.ContainerPort)
		}
	}
	return port.IntValue() == j.command.port("http")
}

func (j *judge) times() {
	var sleep time.Duration
	if l := j.container.Lifecycle; l != nil && l.PreStop != nil && l.PreStop.Sleep != nil {
		sleep = time.Duration(l.PreStop.Sleep.Seconds) * time.Second
	}
	if sleep == 0 {
		j.fault("preStop does not sleep: customers are still sent here after SIGTERM")
	}
	var grace time.Duration
	if s := j.pod.TerminationGracePeriodSeconds; s != nil {
		grace = time.Duration(*s) * time.Second
	}
	if least := sleep + j.command.stopping() + margin; grace < least {
		j.fault("the pod is killed after %s; stopping takes up to %s, and a margin", grace, least-margin)
	}
	if p := j.container.StartupProbe; p != nil {
		patience := time.Duration(max(p.PeriodSeconds, 1)) * time.Duration(p.FailureThreshold) * time.Second
		if patience < j.command.seconds("join")+margin {
			j.fault("the startup probe waits for %s and the program for %s", patience, j.command.seconds("join"))
		}
	}
}

func (j *judge) volumes() {
	var volumes []string
	for _, c := range j.claims {
		volumes = append(volumes, c.Name)
		if !slices.Equal(c.Spec.AccessModes, []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}) {
			j.fault("volume %s is not one pod's", c.Name)
		}
	}
	for _, v := range j.pod.Volumes {
		volumes = append(volumes, v.Name)
	}
	data := j.command["data"]
	kept := false
	for _, m := range j.container.VolumeMounts {
		if !slices.Contains(volumes, m.Name) {
			j.fault("%s: no volume is called %s", m.MountPath, m.Name)
		}
		kept = kept || below(data, m.MountPath)
	}
	switch {
	case len(volumes) == 0 && data != "":
		j.fault("-data=%s, and no volume", data)
	case len(volumes) > 0 && !kept:
		j.fault("-data=%s is not below a volume", data)
	case j.stateful != nil && len(volumes) == 0:
		j.fault("a StatefulSet with no volume")
	}
}

func (j *judge) security(img *image) {
	p, c := j.pod.SecurityContext, j.container.SecurityContext
	if p == nil || c == nil || p.RunAsUser == nil || p.RunAsGroup == nil || p.RunAsNonRoot == nil {
		j.fault("no user, or no security context")
		return
	}
	if !*p.RunAsNonRoot || fmt.Sprintf("%d:%d", *p.RunAsUser, *p.RunAsGroup) != img.user {
		j.fault("the user is not the image's, %s", img.user)
	}
	if len(j.claims) > 0 && (p.FSGroup == nil || *p.FSGroup != *p.RunAsGroup) {
		j.fault("the volume is not the user's: fsGroup")
	}
	if c.ReadOnlyRootFilesystem == nil || !*c.ReadOnlyRootFilesystem {
		j.fault("the root file system can be written")
	}
	if c.AllowPrivilegeEscalation == nil || *c.AllowPrivilegeEscalation || c.Capabilities == nil ||
		!slices.Equal(c.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		j.fault("it keeps capabilities")
	}
	if _, limited := j.container.Resources.Limits[corev1.ResourceCPU]; limited {
		j.fault("a limit of CPU throttles the leader")
	}
	if j.container.Resources.Limits.Memory().IsZero() || j.container.Resources.Requests.Cpu().IsZero() {
		j.fault("no limit of memory, or no request for CPU")
	}
}

func (j *judge) spread() {
	for _, key := range []string{corev1.LabelHostname, corev1.LabelTopologyZone} {
		if !slices.ContainsFunc(j.pod.TopologySpreadConstraints, func(c corev1.TopologySpreadConstraint) bool {
			return c.TopologyKey == key && j.isPods(c.LabelSelector) && c.WhenUnsatisfiable == corev1.ScheduleAnyway
		}) {
			j.fault("the pods are not spread over %s", key)
		}
	}
}
