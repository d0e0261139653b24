"""Figures and self-contained HTML pages."""

from bcls_core.report.figures import label_quantiles, training_curves
from bcls_core.report.search_page import SearchHit, SearchPage, render_search_page

__all__ = ["SearchHit", "SearchPage", "label_quantiles", "render_search_page", "training_curves"]
