"""A small campaign for the tests."""

from models.marketing.config import DataConfig, GeneratorConfig, MarketingConfig

CONFIG = MarketingConfig(data=DataConfig(name="test", generator=GeneratorConfig(members=6000, offers=6, seed=3)))
