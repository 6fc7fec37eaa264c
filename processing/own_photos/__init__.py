"""From a stranger's photos or video to a place that can be localized in, with a plain verdict: what `d2s map` does around the stages."""
