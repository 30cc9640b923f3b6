"""Whether a report is well formed."""

from html.parser import HTMLParser

_VOID = {"meta", "img", "br"}


class Checker(HTMLParser):
    """Collects addresses that a browser would fetch and checks that tags close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        if tag not in _VOID:
            self.open.append(tag)
        self.addresses += [
            value for name, value in attrs if name in {"src", "href", "srcset", "data"}
        ]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def check(html):
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker
