"""The built-in grammar's places: what lives where, and how places are written."""

from collections.abc import Mapping

from penstock.consumer.prompts.asking.english import phrases

PLACED: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("bird", "alps"): phrases(
        """golden eagle; bearded vulture; alpine chough; rock ptarmigan; black grouse; wallcreeper; snowfinch; spotted
        nutcracker; ring ouzel; raven; alpine accentor; peregrine falcon; water pipit; black redstart; capercaillie;
        three-toed woodpecker; crag martin; rock partridge; griffon vulture; dipper"""
    ),
    ("animal", "alps"): phrases(
        """alpine ibex; chamois; marmot; mountain hare; red deer; red fox; lynx; brown bear; golden eagle; stoat;
        alpine salamander; dairy cow; bearded vulture; wolf"""
    ),
    ("flower", "alps"): phrases(
        """edelweiss; gentian; alpenrose; alpine aster; arnica; soldanella; pasque flower; bellflower; houseleek;
        crocus; globeflower; martagon lily; moss campion; alpine poppy"""
    ),
    ("tree", "alps"): phrases(
        "larch; spruce; Swiss stone pine; mountain pine; silver fir; beech; birch; rowan; sycamore"
    ),
    ("animal", "africa"): phrases(
        """lion; elephant; giraffe; zebra; leopard; cheetah; hippopotamus; rhinoceros; buffalo; hyena; warthog;
        gorilla; chimpanzee; gazelle; wildebeest; ostrich; crocodile; meerkat"""
    ),
    ("bird", "africa"): phrases(
        """ostrich; flamingo; secretary bird; marabou stork; fish eagle; hornbill; crowned crane; lilac-breasted
        roller; weaver bird; vulture; guineafowl; bee-eater; sunbird"""
    ),
    ("animal", "arctic"): phrases(
        """polar bear; arctic fox; reindeer; walrus; seal; musk ox; arctic hare; snowy owl; beluga whale; narwhal;
        ermine"""
    ),
    ("bird", "arctic"): phrases(
        "snowy owl; puffin; arctic tern; eider; snow bunting; gyrfalcon; guillemot; snow goose; rock ptarmigan; skua"
    ),
    ("animal", "antarctic"): phrases(
        "emperor penguin; leopard seal; elephant seal; orca; skua; albatross; humpback whale"
    ),
    ("bird", "antarctic"): phrases("emperor penguin; king penguin; gentoo penguin; skua; albatross; snow petrel"),
    ("animal", "sea"): phrases(
        """dolphin; whale; seal; sea turtle; octopus; jellyfish; shark; ray; crab; lobster; seahorse; starfish; orca;
        squid"""
    ),
    ("bird", "sea"): phrases(
        "herring gull; puffin; gannet; cormorant; tern; guillemot; albatross; pelican; razorbill; kittiwake; skua"
    ),
    ("animal", "desert"): phrases(
        "camel; fennec fox; scorpion; rattlesnake; oryx; meerkat; lizard; jerboa; vulture; tortoise; sand cat"
    ),
    ("plant", "desert"): phrases("saguaro; prickly pear; agave; yucca; aloe; tumbleweed; Joshua tree; barrel cactus"),
    ("animal", "rainforest"): phrases(
        """jaguar; sloth; toucan; macaw; tree frog; howler monkey; tapir; anaconda; anteater; capybara; ocelot; morpho
        butterfly; orang-utan"""
    ),
    ("bird", "rainforest"): phrases(
        "toucan; macaw; hummingbird; quetzal; hoatzin; harpy eagle; parrot; tanager; potoo"
    ),
    ("animal", "forest"): phrases(
        """fox; roe deer; red squirrel; badger; wild boar; hedgehog; pine marten; woodpecker; owl; hare; wolf; stag
        beetle"""
    ),
    ("bird", "forest"): phrases(
        "woodpecker; tawny owl; jay; nuthatch; treecreeper; goshawk; coal tit; bullfinch; crossbill; robin; cuckoo"
    ),
    ("bird", "garden"): phrases(
        "robin; blackbird; blue tit; great tit; goldfinch; sparrow; wren; starling; collared dove; chaffinch; dunnock"
    ),
    ("animal", "farm"): phrases("cow; calf; sheep; lamb; goat; pig; horse; donkey; hen; cockerel; goose; sheepdog"),
    ("animal", "australia"): phrases(
        "kangaroo; koala; wombat; platypus; echidna; emu; dingo; wallaby; kookaburra; Tasmanian devil; cockatoo"
    ),
    ("bird", "australia"): phrases(
        "emu; kookaburra; cockatoo; galah; lyrebird; rainbow lorikeet; magpie; black swan; cassowary; budgerigar"
    ),
}
"""What lives where, where a kind's own members would not: by the kind and a word of `PLACES`."""

BROADER: Mapping[str, str] = {
    "wild animal": "animal",
    "mammal": "animal",
    "farm animal": "animal",
    "wildflower": "flower",
}
"""Kinds that `PLACED` knows under another name."""

PLACES: Mapping[str, str] = {
    **{name: name for name in ("alps", "africa", "arctic", "antarctic", "sea", "desert", "rainforest", "forest")},
    **{name: name for name in ("garden", "farm", "australia")},
    "savannah": "africa",
    "savanna": "africa",
    "serengeti": "africa",
    "kenya": "africa",
    "tanzania": "africa",
    "antarctica": "antarctic",
    "ocean": "sea",
    "coast": "sea",
    "reef": "sea",
    "sahara": "desert",
    "amazon": "rainforest",
    "jungle": "rainforest",
    "woods": "forest",
    "wood": "forest",
    "woodland": "forest",
    "switzerland": "alps",
    "tyrol": "alps",
    "outback": "australia",
    "gardens": "garden",
    "farms": "farm",
    "oceans": "sea",
    "seas": "sea",
    "forests": "forest",
    "deserts": "desert",
    "rainforests": "rainforest",
}
"""Words that name a place, and which of `PLACED` is meant."""

PROPER: Mapping[str, str] = {
    name.lower(): name
    for name in phrases(
        """Alps; Andes; Himalayas; Pyrenees; Africa; Asia; Europe; America; Australia; Antarctica; Arctic; Antarctic;
        Amazon; Sahara; Serengeti; Kenya; Tanzania; Mediterranean; Pacific; Atlantic; Baltic; Caribbean; Switzerland;
        Austria; Tyrol; Italy; France; Spain; Germany; England; Scotland; Ireland; Wales; Britain; Norway; Sweden;
        Finland; Iceland; Greenland; Greece; Turkey; Egypt; Morocco; India; China; Japan; Korea; Vietnam; Thailand;
        Indonesia; Canada; Mexico; Brazil; Peru; Chile; Argentina; London; Paris; Berlin; Rome; Venice; Vienna;
        Amsterdam; Istanbul; Tokyo; Kyoto; Beijing; Mumbai; Cairo; Nairobi; Dolomites; Carpathians; Rockies"""
    )
}
"""Names as they are written."""

GEOGRAPHIC = frozenset(
    phrases(
        """mountains; mountain; sea; ocean; forest; forests; desert; deserts; jungle; rainforest; savannah; savanna;
        arctic; antarctic; tropics; woods; garden; gardens; farm; city; countryside; coast; reef; north; south; east;
        west; world; steppe; tundra; highlands; lowlands; hills; wetlands; marsh; marshes; islands; island; outback;
        prairie"""
    )
)
"""Words of a place: "of the mountains" is said of one thing as "in the mountains"."""
