package deploytest

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
)

// manifests are the objects of one file, or of several together.
type manifests struct {
	stateful *appsv1.StatefulSet
	deployed *appsv1.Deployment
	services []*corev1.Service
	budgets  []*policyv1.PodDisruptionBudget
	policies []*networkingv1.NetworkPolicy
}

// decoder is as strict as an API server that is asked to be: fields that are not there, or there twice, and kinds that are not known are
// errors.
var decoder = func() runtime.Decoder {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{appsv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme} {
		utilruntime.Must(add(scheme))
	}
	return json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
}()

// decode decodes every document of text.
func decode(text string) (*manifests, error) {
	m := &manifests{}
	for i, document := range strings.Split(text, "\n---\n") {
		object, _, err := decoder.Decode([]byte(document), nil, nil)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		switch o := object.(type) {
		case *appsv1.StatefulSet:
			m.stateful = o
		case *appsv1.Deployment:
			m.deployed = o
		case *corev1.Service:
			m.services = append(m.services, o)
		case *policyv1.PodDisruptionBudget:
			m.budgets = append(m.budgets, o)
		case *networkingv1.NetworkPolicy:
			m.policies = append(m.policies, o)
		default:
			return nil, fmt.Errorf("document %d is a %T, which nobody judges", i+1, o)
		}
	}
	return m, nil
}

// workload is what a StatefulSet and a Deployment have in common.
type workload struct {
	replicas int
	together int // so many pods may start at once
	selector *metav1.LabelSelector
	template corev1.PodTemplateSpec
	claims   []corev1.PersistentVolumeClaim
}

func (m *manifests) workload() (w workload, faults []string) {
	switch {
	case m.stateful != nil && m.deployed == nil:
		s := m.stateful.Spec
		w = workload{selector: s.Selector, template: s.Template, claims: s.VolumeClaimTemplates, replicas: replicas(s.Replicas)}
		w.together = w.replicas
		if s.PodManagementPolicy != appsv1.ParallelPodManagement {
			faults = append(faults, "the pods start one after the other's readiness, and the first waits for the others")
		}
		if s.UpdateStrategy.Type != appsv1.RollingUpdateStatefulSetStrategyType || s.UpdateStrategy.RollingUpdate != nil {
			faults = append(faults, "pods are not updated one by one")
		}
	case m.deployed != nil && m.stateful == nil:
		d := m.deployed.Spec
		w = workload{selector: d.Selector, template: d.Template, replicas: replicas(d.Replicas)}
		w.together = w.replicas
		r := d.Strategy.RollingUpdate
		if d.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || r == nil || r.MaxSurge == nil || r.MaxUnavailable == nil ||
			r.MaxSurge.IntValue() != 1 || r.MaxUnavailable.IntValue() != 0 {
			faults = append(faults, "pods are not updated one by one, the new one first")
			break
		}
		w.together += r.MaxSurge.IntValue()
		if d.MinReadySeconds == 0 {
			faults = append(faults, "no pause between the pods of an update")
		}
	default:
		faults = append(faults, "there is not one StatefulSet or one Deployment")
	}
	return w, faults
}

func replicas(n *int32) int {
	if n == nil {
		return 1
	}
	return int(*n)
}
