"""Typed settings: one class per section, unknown keys are errors. Imports neither torch nor ray nor mlflow."""

from bcls_core.config.base import RUNTIME, Section, content_of
from bcls_core.config.ingest import DemoIngest, IngestSettings, KarpathyIngest, Split
from bcls_core.config.label import (
    CiderDMeasureSettings,
    CiderMeasureSettings,
    DescriptorTeacherSettings,
    EmbeddingMeasureSettings,
    ExactSearch,
    FeatureTeacherSettings,
    ImageTeacherSettings,
    IvfSearch,
    LabelSettings,
    MeasureSettings,
    SoftLabelSettings,
    VisionTeacherSettings,
)
from bcls_core.config.load import load_recipe, load_runtime
from bcls_core.config.objective import GradedTerm, KendallTerm, ObjectiveTerm, SoftLabelTerm, TripletTerm
from bcls_core.config.recipe import EvaluateSettings, Recipe, RegistrySettings, RuntimeSettings
from bcls_core.config.student import (
    ConfiguredImageTower,
    ConfiguredTextTower,
    CustomStudent,
    GivenImageFeatures,
    PretrainedTower,
    StudentSettings,
    TwoTowerStudent,
)
from bcls_core.config.train import AugmentSettings, BatchSettings, RandomBatches, RelatedBatches, TrainSettings

__all__ = [
    "RUNTIME",
    "AugmentSettings",
    "BatchSettings",
    "CiderDMeasureSettings",
    "CiderMeasureSettings",
    "ConfiguredImageTower",
    "ConfiguredTextTower",
    "CustomStudent",
    "DemoIngest",
    "DescriptorTeacherSettings",
    "EmbeddingMeasureSettings",
    "EvaluateSettings",
    "ExactSearch",
    "FeatureTeacherSettings",
    "GivenImageFeatures",
    "GradedTerm",
    "ImageTeacherSettings",
    "IngestSettings",
    "IvfSearch",
    "KarpathyIngest",
    "KendallTerm",
    "LabelSettings",
    "MeasureSettings",
    "ObjectiveTerm",
    "PretrainedTower",
    "RandomBatches",
    "Recipe",
    "RegistrySettings",
    "RelatedBatches",
    "RuntimeSettings",
    "Section",
    "SoftLabelSettings",
    "SoftLabelTerm",
    "Split",
    "StudentSettings",
    "TrainSettings",
    "TripletTerm",
    "TwoTowerStudent",
    "VisionTeacherSettings",
    "content_of",
    "load_recipe",
    "load_runtime",
]
