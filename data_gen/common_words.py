"""Words too common to say something about one person's life: they are no hindsight and no content."""

COMMON_WORDS = frozenset(
    """
able about above accept actually afraid after again against ago agree ahead alive all almost alone along already
also although always among amount anger angry annoyed another answer anxiety anxious any anybody anymore anyone
anything anyway anywhere apart appreciate approach around aside ask asleep attention aware away awful back bad
balance battle bear bearing beat beating became because become been before began begin behind being believe belong
beside best better between big bit blame body both brave break breath breathe bring broken brought build burden burn
busy but call calm came can care careful carry case catch cause certain chance change check choice choose clear
close closer cold come comes comfort comfortable coming common completely concern confidence confident confused
connect connection consider control conversation cope corner could couple courage course cover crazy cry cut daily
dark day days deal dear decide decision deep deeply deserve despite did different difficult direction disappointed
discuss distance does doing done doubt down drain drained draw drop during each earlier early ease easier easily
easy effort eight either else emotion emotional emotions empty encourage end ending energy enjoy enough entire
especially even evening ever every everybody everyone everything exact exactly example exhausted exhausting expect
experience explain express extra extremely eyes face facing fact fail fair fall familiar family far fault fear feel
feeling feelings feels fell felt few fight figure final finally find fine finish first five fix focus follow for
force forever forget forgive form forward found four free friend friends from front frustrated frustrating
frustration full fully further future gave general gentle gently get getting give given giving glad goal goes going
gone good got great grief ground grow guess guilt guilty had half hand handle hands happen happened happening
happens happy hard harder hardly has hate have having head heal health healthy hear heard heart heavy held hello
help helped helpful helping helps her here hers herself hidden high him himself his hold holding home honest
honestly hope hopeful hoping hour hours how however hug huge human hurt hurtful hurting idea ignore imagine
important impossible inside instead into isolated issue issues its itself job join judge just keep keeping keeps
kept kind kindness knew know knowing known lack large last late lately later laugh lead learn least leave leaving
left less let letting level life light like likely line listen listening little live living loneliness lonely long
longer look looking looks lose losing loss lost lot lots loud love loved low made main make makes making manage many
matter matters may maybe mean meaning means meant mental mention mess met middle might mind mine miss missed missing
mistake moment moments mood more morning most mostly move moving much must myself name natural near nearly necessary
need needed needing needs negative neither nervous never new next nice night nights nobody none normal not note
nothing notice noticed now number obvious off offer often okay old once one ones only onto open opinion option
options order ordinary other others ought our ours ourselves out outside over overwhelmed overwhelming own pace pain
painful painfully panic part parts past patience patient pause pay people perfect perhaps person personal
perspective picture piece place plan play please point positive possible power practice present press pressure
pretty probably problem problems process promise proud pull push put question questions quick quickly quiet quite
rather reach react read ready real realise realize really reason reasons recent recently regret relationship relax
relief remember remind repeat respect response rest result return right rough rush sad sadness safe said same save
saw say saying says scared scary seconds see seeing seem seemed seems seen self selfish sense separate serious set
several shame share shared sharing she short should show side sign silence silent similar simple simply since single
sit situation six sleep slow slowly small smile social some somebody somehow someone something sometimes somewhere
soon sorry sort sound sounds space speak special specific spend spent stage stand start started starting state stay
stays step steps still stop story straight strange strength stress stressed stressful strong struggle struggling
stuck such sudden suddenly suffer suffering suggest supply support supported supportive suppose sure surprise
surprised take taken takes taking talk talked talking tell telling tend terrible terrified than thank thanks that
the their them themselves then there these they thing things think thinking third this those though thought thoughts
three through time times tired today together told tomorrow tonight too took touch tough toward towards treat tried
true trust truth try trying turn twice two type under understand understandable understanding understood unfair
unhappy until upset upsetting use used useful using usual usually value very view voice wait waiting wake walk want
wanted wanting wants warm was waste way ways weak week weekend weeks weight welcome well went were what whatever
when where whether which while who whole whom whose why will willing wish with within without woke wonder wondering
word words work worked working works world worried worries worry worse worst worth worthless would wrong year years
yes yesterday yet you young your yours yourself
""".split()  # noqa: SIM905
)
