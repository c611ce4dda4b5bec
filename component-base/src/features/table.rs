//! The gates of 1.36, each with its stage, whether it is on by default or even locked, which daemons read it, and what it
//! needs.

use super::{Feature, Reader, Stage};

macro_rules! default_of {
    (on) => {
        (true, false)
    };
    (off) => {
        (false, false)
    };
    (locked_on) => {
        (true, true)
    };
    (locked_off) => {
        (false, true)
    };
}

macro_rules! gates {
    ($($name:ident $stage:ident $default:ident [$($reader:ident)*] $(needs [$($needed:ident)*])?;)*) => {
        /// A gate, by its name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "upstream's documentation of each is a page of its own")]
        pub enum Gate {
            $($name,)*
        }

        /// All of them, in the order of their numbers.
        pub const ALL: [Feature; [$(Gate::$name,)*].len()] = [$(
            Feature {
                gate: Gate::$name,
                name: stringify!($name),
                stage: Stage::$stage,
                default: default_of!($default).0,
                locked: default_of!($default).1,
                readers: &[$(Reader::$reader),*],
                needs: &[$($(Gate::$needed),*)?],
            },
        )*];
    };
}

gates! {
    AllAlpha Alpha off [];
    AllBeta Beta off [];
    AggregatedDiscoveryRemoveBetaType Deprecated locked_on [];
    AllowDNSOnlyNodeCSR Deprecated off [Kubelet];
    AllowInsecureKubeletCertificateSigningRequests Deprecated off [Api];
    AllowOverwriteTerminationGracePeriodSeconds Deprecated locked_off [];
    AllowParsingUserUIDFromCertAuth Beta on [Api];
    AllowServiceExternalIPs GA on [Proxy];
    AllowUnsafeMalformedObjectDeletion Alpha off [Api];
    AnonymousAuthConfigurableEndpoints GA locked_on [];
    AnyVolumeDataSource GA locked_on [];
    APIResponseCompression Beta on [Api];
    APIServerIdentity Beta on [Api Controllers];
    APIServerTracing GA locked_on [];
    APIServingWithRoutine Alpha off [Api];
    AtomicFIFO Beta on [Controllers Scheduler Kubelet Proxy];
    AuthorizeNodeWithSelectors GA locked_on [];
    AuthorizePodWebsocketUpgradeCreatePermission Beta on [Api];
    AuthorizeWithSelectors GA locked_on [];
    BtreeWatchCache GA locked_on [];
    CBORServingAndStorage Alpha off [Api];
    ChangeContainerStatusOnKubeletRestart Deprecated off [Kubelet];
    ClearingNominatedNodeNameAfterBinding Beta on [Api];
    ClientsAllowCARotation Beta on [Controllers Scheduler Kubelet Proxy];
    ClientsAllowCBOR Alpha off [Controllers Scheduler Kubelet Proxy];
    ClientsAllowTLSCacheGC Beta on [Controllers Scheduler Kubelet Proxy];
    ClientsPreferCBOR Alpha off [Controllers Scheduler Kubelet Proxy];
    CloudControllerManagerWatchBasedRoutesReconciliation Alpha off [Controllers];
    CloudControllerManagerWebhook Alpha off [Controllers];
    ClusterTrustBundle Beta off [Api Controllers];
    ClusterTrustBundleProjection Beta off [Api Kubelet] needs [ClusterTrustBundle];
    ComponentFlagz Beta on [Api Controllers Scheduler Kubelet Proxy];
    ComponentStatusz Beta on [Api Controllers Scheduler Kubelet Proxy];
    ConcurrentWatchObjectDecode Beta off [Api];
    ConsistentListFromCache GA locked_on [];
    ConstrainedImpersonation Beta on [Api];
    ContainerCheckpoint Beta on [Kubelet];
    ContainerRestartRules Beta on [Api Kubelet];
    ContainerStopSignals Alpha off [Api Kubelet];
    ContextualLogging Beta on [Api Controllers Scheduler Kubelet Proxy];
    ControllerManagerReleaseLeaderElectionLockOnExit Alpha off [Controllers];
    CoordinatedLeaderElection Beta off [Api Controllers Scheduler];
    CustomCPUCFSQuotaPeriod GA on [Kubelet];
    CPUManagerPolicyAlphaOptions Alpha off [Kubelet];
    CPUManagerPolicyBetaOptions Beta on [Kubelet];
    CPUManagerPolicyOptions GA locked_on [];
    CRDObservedGenerationTracking Beta on [Api];
    CRDValidationRatcheting GA locked_on [];
    CRIListStreaming Alpha off [Kubelet];
    CrossNamespaceVolumeDataSource Alpha off [Api];
    CSIServiceAccountTokenSecrets GA locked_on [];
    CSIVolumeHealth Alpha off [Kubelet];
    CustomResourceFieldSelectors GA locked_on [];
    DeclarativeValidation GA locked_on [];
    DeclarativeValidationBeta Beta on [Api] needs [DeclarativeValidation];
    DeclarativeValidationTakeover Deprecated off [] needs [DeclarativeValidation];
    DeploymentReplicaSetTerminatingReplicas Beta on [Api Controllers];
    DetectCacheInconsistency Beta on [Api];
    DisableAllocatorDualWrite GA locked_on [];
    DisableCPUQuotaWithExclusiveCPUs Deprecated on [Kubelet];
    DisableNodeKubeProxyVersion Deprecated locked_on [];
    DRAAdminAccess GA locked_on [];
    DRAConsumableCapacity Beta on [Api Scheduler] needs [DynamicResourceAllocation];
    DRADeviceBindingConditions Beta on [Api Scheduler] needs [DynamicResourceAllocation DRAResourceClaimDeviceStatus];
    DRADeviceTaintRules Beta off [Api Controllers Scheduler] needs [DRADeviceTaints];
    DRADeviceTaints Beta on [Api Controllers Scheduler] needs [DynamicResourceAllocation];
    DRAExtendedResource Beta on [Api Controllers Scheduler Kubelet] needs [DynamicResourceAllocation];
    DRAListTypeAttributes Alpha off [Api Scheduler] needs [DynamicResourceAllocation];
    DRANodeAllocatableResources Alpha off [Api Scheduler] needs [DynamicResourceAllocation];
    DRAPartitionableDevices Beta on [Api Scheduler] needs [DynamicResourceAllocation];
    DRAPrioritizedList GA on [Api Controllers Scheduler] needs [DynamicResourceAllocation];
    DRAResourceClaimDeviceStatus Beta on [Api Scheduler];
    DRAResourceClaimGranularStatusAuthorization Beta on [Api] needs [DynamicResourceAllocation DRAResourceClaimDeviceStatus];
    DRAResourcePoolStatus Alpha off [Api Controllers] needs [DynamicResourceAllocation];
    DRASchedulerFilterTimeout Beta on [Scheduler] needs [DynamicResourceAllocation];
    DRAWorkloadResourceClaims Alpha off [Api Controllers Scheduler Kubelet] needs [DynamicResourceAllocation GenericWorkload];
    DynamicResourceAllocation GA locked_on [];
    EnvFiles Beta on [Api Kubelet];
    EventedPLEG Alpha off [Kubelet];
    ExecProbeTimeout GA locked_on [];
    ExtendWebSocketsToKubelet Beta on [Api Kubelet] needs [NodeDeclaredFeatures];
    ExternalServiceAccountTokenSigner GA locked_on [];
    GangScheduling Alpha off [Scheduler] needs [GenericWorkload];
    GenericWorkload Alpha off [Api Controllers Scheduler];
    GitRepoVolumeDriver Deprecated locked_off [];
    GracefulNodeShutdown Beta on [Kubelet];
    GracefulNodeShutdownBasedOnPodPriority Beta on [Kubelet] needs [GracefulNodeShutdown];
    HostnameOverride Beta on [Api Kubelet];
    HPAConfigurableTolerance Beta on [Api Controllers];
    HPAScaleToZero Alpha off [Api Controllers];
    ImageMaximumGCAge GA locked_on [];
    ImageVolume GA locked_on [];
    ImageVolumeWithDigest Alpha off [Api Kubelet] needs [ImageVolume];
    InformerResourceVersion GA on [Controllers Scheduler Kubelet Proxy];
    InOrderInformers GA locked_on [];
    InOrderInformersBatchProcess Beta on [Controllers Scheduler Kubelet Proxy];
    InPlacePodLevelResourcesVerticalScaling Beta on [Api Scheduler Kubelet] needs [InPlacePodVerticalScaling PodLevelResources NodeDeclaredFeatures];
    InPlacePodVerticalScaling GA locked_on [];
    InPlacePodVerticalScalingExclusiveCPUs Alpha off [Kubelet] needs [InPlacePodVerticalScaling];
    InPlacePodVerticalScalingExclusiveMemory Alpha off [Kubelet] needs [InPlacePodVerticalScaling];
    InPlacePodVerticalScalingInitContainers Beta on [Api Kubelet] needs [InPlacePodVerticalScaling NodeDeclaredFeatures];
    JobBackoffLimitPerIndex GA locked_on [];
    JobManagedBy GA locked_on [];
    JobPodReplacementPolicy GA locked_on [];
    JobSuccessPolicy GA locked_on [];
    KMSv1 Deprecated off [Api];
    KubeletCgroupDriverFromCRI GA locked_on [];
    KubeletCrashLoopBackOffMax Beta on [Kubelet];
    KubeletEnsureSecretPulledImages Beta on [Kubelet];
    KubeletFineGrainedAuthz GA locked_on [];
    KubeletInUserNamespace Alpha off [Kubelet];
    KubeletPodResourcesDynamicResources GA locked_on [];
    KubeletPodResourcesGet GA locked_on [];
    KubeletPodResourcesListUseActivePods Deprecated on [Kubelet];
    KubeletPSI GA locked_on [];
    KubeletRegistrationGetOnExistsOnly Deprecated off [Kubelet];
    KubeletSeparateDiskGC Beta on [Kubelet];
    KubeletServiceAccountTokenForCredentialProviders Beta on [Api Kubelet];
    KubeletTracing GA locked_on [];
    ListFromCacheSnapshot Beta on [Api];
    LocalStorageCapacityIsolationFSQuotaMonitoring Beta off [Kubelet];
    LogarithmicScaleDown GA locked_on [];
    LoggingAlphaOptions Alpha off [Api Controllers Scheduler Kubelet Proxy];
    LoggingBetaOptions Beta on [Api Controllers Scheduler Kubelet Proxy];
    ManifestBasedAdmissionControlConfig Alpha off [Api];
    MatchLabelKeysInPodAffinity GA locked_on [];
    MatchLabelKeysInPodTopologySpread Beta on [Api Scheduler];
    MatchLabelKeysInPodTopologySpreadSelectorMerge Beta on [Api] needs [MatchLabelKeysInPodTopologySpread];
    MaxUnavailableStatefulSet Beta off [Api Controllers];
    MemoryQoS Alpha off [Kubelet];
    MultiCIDRServiceAllocator GA locked_on [];
    MutableCSINodeAllocatableCount GA locked_on [];
    MutablePodResourcesForSuspendedJobs Beta on [Api];
    MutablePVNodeAffinity Alpha off [Api];
    MutableSchedulingDirectivesForSuspendedJobs Beta on [Api Controllers];
    MutatingAdmissionPolicy GA on [Api];
    NativeHistograms Alpha off [Api Controllers Scheduler Kubelet Proxy];
    NFTablesProxyMode GA locked_on [];
    NodeDeclaredFeatures Beta on [Api Scheduler Kubelet];
    NodeInclusionPolicyInPodTopologySpread GA locked_on [];
    NodeLogQuery GA locked_on [];
    NodeSwap GA locked_on [];
    NominatedNodeNameForExpectation Beta on [Scheduler];
    OpenAPIEnums Beta on [Api];
    OpportunisticBatching Beta on [Scheduler];
    OrderedNamespaceDeletion GA locked_on [];
    PersistentVolumeClaimUnusedSinceTime Alpha off [Controllers];
    PLEGOnDemandRelist Beta on [Kubelet];
    PodAndContainerStatsFromCRI Alpha off [Kubelet];
    PodCertificateRequest Beta off [Api Controllers Kubelet] needs [AuthorizeNodeWithSelectors];
    PodDeletionCost Beta on [Api Controllers];
    PodLevelResourceManagers Alpha off [Kubelet] needs [PodLevelResources];
    PodLevelResources Beta on [Api Controllers Scheduler Kubelet];
    PodLifecycleSleepAction GA locked_on [];
    PodLifecycleSleepActionAllowZero GA locked_on [];
    PodLogsQuerySplitStreams Alpha off [Api Kubelet];
    PodObservedGenerationTracking GA locked_on [];
    PodReadyToStartContainersCondition Beta on [Kubelet];
    PodsAPI Alpha off [Kubelet];
    PodSchedulingReadiness GA locked_on [];
    PodTopologyLabelsAdmission Beta on [Api];
    PortForwardWebsockets Beta on [Api];
    PreferSameTrafficDistribution GA locked_on [];
    PreventStaticPodAPIReferences Beta on [Kubelet];
    ProcMountType GA locked_on [];
    QOSReserved Alpha off [Kubelet];
    RecoverVolumeExpansionFailure GA locked_on [];
    RecursiveReadOnlyMounts GA locked_on [];
    ReduceDefaultCrashLoopBackOffDecay Alpha off [Kubelet];
    RelaxedDNSSearchValidation GA locked_on [];
    RelaxedEnvironmentVariableValidation GA locked_on [];
    RelaxedServiceNameValidation Beta on [Api];
    ReloadKubeletClientCAFile Beta on [Kubelet];
    ReloadKubeletServerCertificateFile Beta on [Kubelet];
    RemoteRequestHeaderUID Beta on [Api];
    ResilientWatchCacheInitialization GA locked_on [];
    ResourceHealthStatus Beta on [Api Kubelet] needs [DynamicResourceAllocation];
    ResourceHealthStatusMessage Beta on [Api Kubelet] needs [ResourceHealthStatus];
    RestartAllContainersOnContainerExits Beta on [Api Kubelet] needs [ContainerRestartRules NodeDeclaredFeatures];
    RetryGenerateName GA locked_on [];
    RotateKubeletServerCertificate Beta on [Kubelet];
    RuntimeClassInImageCriApi Alpha off [Kubelet];
    SchedulerAsyncAPICalls Beta off [Scheduler];
    SchedulerAsyncPreemption Beta on [Scheduler];
    SchedulerPopFromBackoffQ Beta on [Scheduler];
    SchedulerQueueingHints GA locked_on [];
    SELinuxChangePolicy GA locked_on [];
    SELinuxMount Beta off [Api Kubelet];
    SELinuxMountReadWriteOncePod GA locked_on [];
    SeparateCacheWatchRPC Deprecated locked_off [];
    SeparateTaintEvictionController GA locked_on [];
    ServiceAccountNodeAudienceRestriction Beta on [Api];
    ServiceAccountTokenJTI GA locked_on [];
    ServiceAccountTokenNodeBinding GA locked_on [];
    ServiceAccountTokenNodeBindingValidation GA locked_on [];
    ServiceAccountTokenPodNodeInfo GA locked_on [];
    ServiceCIDRStatusFieldWiping Deprecated on [Api];
    ShardedListAndWatch Alpha off [Api];
    SidecarContainers GA locked_on [];
    SizeBasedListCostEstimate Beta on [Api];
    StaleControllerConsistencyDaemonSet Beta on [Controllers] needs [AtomicFIFO];
    StaleControllerConsistencyJob Beta on [Controllers] needs [AtomicFIFO];
    StaleControllerConsistencyReplicaSet Beta on [Controllers] needs [AtomicFIFO];
    StaleControllerConsistencyStatefulSet Beta on [Controllers] needs [AtomicFIFO];
    StatefulSetSemanticRevisionComparison Beta on [Controllers];
    StorageCapacityScoring Alpha off [Scheduler];
    StorageNamespaceIndex Deprecated on [Api];
    StorageVersionAPI Alpha off [Api Controllers] needs [APIServerIdentity];
    StorageVersionHash Beta on [Api];
    StorageVersionMigrator Beta off [Api Controllers];
    StreamingCollectionEncodingToJSON GA locked_on [];
    StreamingCollectionEncodingToProtobuf GA locked_on [];
    StrictIPCIDRValidation Beta on [Api];
    StructuredAuthenticationConfiguration GA locked_on [];
    StructuredAuthenticationConfigurationEgressSelector Beta on [Api] needs [StructuredAuthenticationConfiguration];
    StructuredAuthenticationConfigurationJWKSMetrics Beta on [Api] needs [StructuredAuthenticationConfiguration];
    SupplementalGroupsPolicy GA locked_on [];
    SystemdWatchdog GA locked_on [];
    TaintTolerationComparisonOperators Alpha off [Api Controllers Scheduler Kubelet];
    TokenRequestServiceAccountUIDValidation Beta on [Api];
    TopologyAwareWorkloadScheduling Alpha off [Api Scheduler] needs [GenericWorkload];
    TopologyManagerPolicyAlphaOptions Alpha off [Kubelet];
    TopologyManagerPolicyBetaOptions Beta on [Kubelet];
    TopologyManagerPolicyOptions GA locked_on [];
    TranslateStreamCloseWebsocketRequests Beta on [Api];
    UnauthenticatedHTTP2DOSMitigation Beta on [Api];
    UnknownVersionInteroperabilityProxy Beta on [Api] needs [APIServerIdentity];
    UnlockWhileProcessingFIFO Beta on [Controllers Scheduler Kubelet Proxy];
    UserNamespacesHostNetworkSupport Alpha off [Api] needs [UserNamespacesSupport NodeDeclaredFeatures];
    UserNamespacesSupport GA locked_on [];
    VolumeAttributesClass GA locked_on [];
    VolumeLimitScaling Alpha off [Api Scheduler];
    WatchCacheInitializationPostStartHook Beta on [Api];
    WatchList Beta on [Api];
    WatchListClient Beta on [Controllers Scheduler Kubelet Proxy];
    WindowsCPUAndMemoryAffinity Alpha off [Kubelet];
    WindowsGracefulNodeShutdown Beta on [Kubelet] needs [GracefulNodeShutdown];
    WindowsHostNetwork Deprecated off [];
    WinDSR GA locked_on [];
    WinOverlay GA locked_on [];
    WorkloadAwarePreemption Alpha off [Api Scheduler] needs [GangScheduling];
    WorkloadWithJob Alpha off [Api Controllers] needs [GenericWorkload];
}
